"""Both parts of a cut network are the network; only the upper one learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tlserve_nano import PLUGIN as NANO
from torch import Tensor, nn

from tests.tuning.small import IMAGE, SmallBackbone, SmallNet
from tlserve.plugin_api import TrainableBackbone, TrainableModule
from tlserve.tuning.cut import Cut, cut, input_shape


def _pictures(backbone: TrainableBackbone, n: int) -> Tensor:
    return torch.randn(n, *input_shape(backbone.info.image), generator=torch.Generator().manual_seed(1))


def _both_parts(found: Cut, pictures: Tensor) -> Tensor:
    features: Tensor = found.tuned(*(found.frozen(pictures) if found.frozen else (pictures,)))
    return features


CASES = [(SmallBackbone(), n) for n in (1, 2)] + [(NANO.load(""), n) for n in (1, 3, 5)]


@pytest.mark.parametrize(("backbone", "n_blocks"), CASES, ids=lambda value: getattr(value, "info", value))
def test_both_parts_one_after_the_other_give_the_features_of_the_whole(
    backbone: TrainableBackbone, n_blocks: int
) -> None:
    trainable = backbone.torch_module()
    found = cut(trainable, backbone.info.image, n_blocks)
    assert found.frozen is not None, found.why_whole
    for n in (1, 2, 5):
        pictures = _pictures(backbone, n)
        with torch.no_grad():
            expected = trainable.module(pictures)["features"]
            assert torch.allclose(_both_parts(found, pictures), expected, atol=1e-5, rtol=1e-5)
            given = found.frozen(pictures)
        assert [tuple(part.shape[1:]) for part in given] == list(found.shapes)


@pytest.mark.parametrize("n_blocks", [1, 2, 3])
def test_gradients_reach_the_unfrozen_blocks_and_nothing_else(n_blocks: int) -> None:
    backbone = SmallBackbone()
    trainable = backbone.torch_module()
    found = cut(trainable, IMAGE, n_blocks)
    _both_parts(found, _pictures(backbone, 4)).square().sum().backward()
    for place, block in enumerate(trainable.blocks):
        with_gradient = [p.grad is not None and bool(p.grad.any()) for p in block.parameters()]
        assert all(with_gradient) if place >= 3 - n_blocks else not any(with_gradient)


def test_what_the_tuned_part_learns_the_module_has_learnt() -> None:
    backbone = SmallBackbone()
    trainable = backbone.torch_module()
    found = cut(trainable, IMAGE, 1)
    pictures = _pictures(backbone, 2)
    before = trainable.module(pictures)["features"]
    with torch.no_grad():
        for parameter in found.learning[0]:
            parameter.mul_(1.5)
    after = trainable.module(pictures)["features"]
    assert not torch.allclose(before, after, atol=1e-3)
    assert torch.allclose(_both_parts(found, pictures), after, atol=1e-5)


def test_a_tap_that_joins_stages_is_cut_through_each_of_them() -> None:
    found = cut(SmallBackbone().torch_module(), IMAGE, 1)
    assert len(found.shapes) == 2


def test_where_every_block_learns_nothing_is_frozen() -> None:
    found = cut(SmallBackbone().torch_module(), IMAGE, 3)
    assert found.frozen is None
    assert found.shapes == ((3, 24, 24),)


class Overwriting(SmallNet):
    """Overwrites what is read again later, on the other side of the cut."""

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        stem = self.stem(pictures)
        middle = self.middle(stem)
        stem.add_(1)
        last = self.last(middle + stem)
        features = torch.cat([stem.mean((2, 3)).mean(1, keepdim=True), last.mean((2, 3))], dim=1)
        return {"stage1": stem, "features": features}


class OverwritingAPart(SmallNet):
    """Fills a part of a mask, as networks with shifted windows do: nothing reads what that gives."""

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        stem = self.stem(pictures)
        mask = stem.new_zeros(stem.shape[1:])
        mask[:, 2:7] = 1
        last = self.last(self.middle(stem) * mask)
        features = torch.cat([stem.mean((2, 3)).mean(1, keepdim=True), last.mean((2, 3))], dim=1)
        return {"stage1": stem, "features": features}


class OddlyShaped(SmallNet):
    """Hands all pictures on in one row."""

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        stem = self.stem(pictures)
        together = stem.transpose(0, 1).reshape(8, -1)
        back = together.reshape(8, -1, 12, 12).transpose(0, 1)
        last = self.last(self.middle(back.contiguous()))
        features = torch.cat([together.mean() + last.mean((2, 3))[:, :1], last.mean((2, 3))], dim=1)
        return {"stage1": stem, "features": features}


@pytest.mark.parametrize("network", [Overwriting, OverwritingAPart, OddlyShaped])
@pytest.mark.parametrize("n_blocks", [1, 2])
def test_an_odd_network_is_cut_all_the_same(network: type[nn.Module], n_blocks: int) -> None:
    backbone = SmallBackbone(network)
    trainable = backbone.torch_module()
    found = cut(trainable, IMAGE, n_blocks)
    assert found.frozen is not None, found.why_whole
    pictures = _pictures(backbone, 3)
    with torch.no_grad():
        expected = trainable.module(pictures)["features"]
        assert torch.allclose(_both_parts(found, pictures), expected, atol=1e-5)


class Undrawable(SmallNet):
    """Decides by its numbers what it does: no graph says that."""

    def forward(self, pictures: Tensor) -> Any:
        return super().forward(pictures if pictures.sum() < 1e9 else -pictures)


def test_a_network_that_does_not_come_apart_is_tuned_whole_and_the_reason_told() -> None:
    backbone = SmallBackbone(Undrawable)
    trainable = backbone.torch_module()
    found = cut(trainable, IMAGE, 1)
    assert found.frozen is None
    assert "torch.export" in found.why_whole
    _both_parts(found, _pictures(backbone, 2)).sum().backward()
    learns = [any(p.grad is not None for p in block.parameters()) for block in trainable.blocks]
    assert learns == [False, False, True]


def test_the_network_is_cut_in_inference_mode_whatever_mode_it_comes_in() -> None:
    backbone = SmallBackbone()
    made = backbone.torch_module()
    found = cut(TrainableModule(made.module.train(), made.blocks), IMAGE, 1)
    pictures = _pictures(backbone, 2)
    assert torch.equal(_both_parts(found, pictures), _both_parts(found, pictures))
