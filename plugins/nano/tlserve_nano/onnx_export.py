"""Write the network as one self-contained ONNX file.

The exporter that traces TorchScript is used on purpose: for a network without branches its graph is as
good, it folds the batch norms into the convolutions, and the bytes are the same every time.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from tlserve.plugin_api import INPUT_NAME, ImageSpec

OPSET = 17


class _InOrder(nn.Module):
    """The exporter names outputs by position, so the taps leave as a tuple."""

    def __init__(self, network: nn.Module, taps: tuple[str, ...]) -> None:
        super().__init__()
        self.network = network
        self.taps = taps

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        activations = self.network(x)
        return tuple(activations[tap] for tap in self.taps)


def write_onnx(network: nn.Module, path: Path, image: ImageSpec, taps: tuple[str, ...]) -> None:
    """Export `network`, whose forward returns {tap: (n, width)}, with a free first dimension `N`.

    Raises OSError if `path` cannot be written.
    """
    example = torch.zeros(2, 3, image.height, image.width)
    with _quiet():
        torch.onnx.export(
            _InOrder(network, taps).eval(),
            (example,),
            path,
            input_names=[INPUT_NAME],
            output_names=list(taps),
            dynamic_axes={name: {0: "N"} for name in (INPUT_NAME, *taps)},
            opset_version=OPSET,
            dynamo=False,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notices about itself out of the user's terminal."""
    torch_log = logging.getLogger("torch.onnx")
    level = torch_log.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch_log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            torch_log.setLevel(level)
