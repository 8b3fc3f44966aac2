"""The frozen part gives what torch gives, in ONNX Runtime where that can run it."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from tlserve_nano import PLUGIN as NANO

from tests.tuning.small import CPU, IMAGE, SmallBackbone
from tlserve.plugin_api import TrainableBackbone
from tlserve.tuning.activations import as_tensors
from tlserve.tuning.cut import Cut, cut, input_shape
from tlserve.tuning.frozen import FrozenPart


@pytest.mark.parametrize(("backbone", "n_blocks"), [(SmallBackbone(), 1), (NANO.load(""), 2)])
def test_it_gives_what_the_module_gives_rounded_to_half_precision(
    backbone: TrainableBackbone, n_blocks: int, caplog: pytest.LogCaptureFixture
) -> None:
    found = cut(backbone.torch_module(), backbone.info.image, n_blocks)
    assert found.frozen is not None
    pictures = torch.randn(5, *input_shape(backbone.info.image))
    with caplog.at_level(logging.INFO, "tlserve.tuning.frozen"):
        records = FrozenPart(found).records(pictures)
    assert not [said for said in caplog.records if said.name == "tlserve.tuning.frozen"]
    assert (records.dtype, records.shape) == (np.float16, (5, found.n_numbers))
    with torch.no_grad():
        expected = found.frozen(pictures)
    for given, wanted in zip(as_tensors(records, found.shapes, CPU), expected, strict=True):
        assert given.dtype == torch.float32
        assert torch.allclose(given, wanted, rtol=2e-3, atol=1e-3)


class Inexportable(torch.nn.Module):
    """Decides by its numbers what it does."""

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor]:
        return (pictures.relu() if pictures.sum() < 1e9 else pictures,)


def test_what_cannot_be_exported_runs_in_torch_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    found = Cut(Inexportable(), torch.nn.Identity(), ((3, 24, 24),), ())
    pictures = torch.randn(4, *input_shape(IMAGE))
    with caplog.at_level(logging.INFO, "tlserve.tuning.frozen"):
        records = FrozenPart(found).records(pictures)
    assert "torch runs the frozen part" in caplog.text
    assert np.allclose(records, pictures.relu().flatten(1).numpy(), rtol=1e-3, atol=1e-3)


def test_activations_beyond_half_precision_stay_finite() -> None:
    class Loud(torch.nn.Module):
        def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor]:
            return (pictures * 1e6,)

    found = Cut(Loud(), torch.nn.Identity(), ((3, 24, 24),), ())
    assert np.isfinite(FrozenPart(found).records(torch.randn(2, 3, 24, 24))).all()
