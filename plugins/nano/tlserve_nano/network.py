"""The torch module behind `nano`: a small plain residual network, cheap on a CPU.

Only 3x3 and 1x1 convolutions, batch norm and ReLU: the operators that every runtime fuses well, and
that a batch norm folds into. Apart from `__init__` so that listing the plugin imports no torch.
"""

from __future__ import annotations

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional

STAGE_WIDTHS = (32, 64, 128, 192)
STAGE_BLOCKS = (1, 2, 1, 1)
FEATURE_WIDTH = 384


def _conv_norm(n_in: int, n_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution without bias and its batch norm; the size shrinks by `stride` alone."""
    conv = nn.Conv2d(n_in, n_out, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(n_out))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; the shortcut is a 1x1 convolution where shapes differ."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.first = _conv_norm(n_in, n_out, 3, stride)
        self.second = _conv_norm(n_out, n_out, 3)
        same_shape = stride == 1 and n_in == n_out
        self.shortcut: nn.Module = nn.Identity() if same_shape else _conv_norm(n_in, n_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.second(functional.relu(self.first(x)))
        return functional.relu(inner + self.shortcut(x))


def _stage(n_in: int, n_out: int, n_blocks: int, stride: int) -> nn.Sequential:
    blocks = [ResidualBlock(n_in, n_out, stride)]
    blocks += [ResidualBlock(n_out, n_out, 1) for _ in range(n_blocks - 1)]
    return nn.Sequential(*blocks)


class NanoNet(nn.Module):
    """Stem, four residual stages, a 1x1 expansion; every tap comes out averaged over space.

    Input: (n, 3, h, w) float32, normalised; any h and w of at least 16 pixels.
    Output: {"stage1" .. "stage4", "features"}, each (n, width) float32.
    """

    def __init__(self) -> None:
        super().__init__()
        w1, w2, w3, w4 = STAGE_WIDTHS
        b1, b2, b3, b4 = STAGE_BLOCKS
        self.stem = nn.Sequential(_conv_norm(3, w1, 3, stride=2), nn.ReLU())
        self.stage1 = _stage(w1, w1, b1, stride=1)
        self.stage2 = _stage(w1, w2, b2, stride=2)
        self.stage3 = _stage(w2, w3, b3, stride=2)
        self.stage4 = _stage(w3, w4, b4, stride=2)
        self.expand = nn.Sequential(_conv_norm(w4, FEATURE_WIDTH, 1), nn.ReLU())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps: dict[str, Tensor] = {}
        maps["stage1"] = x = self.stage1(self.stem(x))
        maps["stage2"] = x = self.stage2(x)
        maps["stage3"] = x = self.stage3(x)
        maps["stage4"] = x = self.stage4(x)
        maps["features"] = self.expand(x)
        return {name: torch.mean(activations, dim=(2, 3)) for name, activations in maps.items()}

    def blocks(self) -> tuple[nn.Module, ...]:
        """From shallow to deep; together they hold every parameter exactly once."""
        return (self.stem, self.stage1, self.stage2, self.stage3, self.stage4, self.expand)


def network_with(weights: bytes) -> NanoNet:
    """The network in inference mode, float32, with the weights of a safetensors file.

    Raises ValueError or RuntimeError if the file is unsound or its tensors are not exactly the network's.
    """
    try:
        state = {name: tensor.float() for name, tensor in load(weights).items()}
    except SafetensorError as exc:
        raise ValueError(str(exc)) from exc
    network = NanoNet()
    counters = {name: t for name, t in network.state_dict().items() if name.endswith("num_batches_tracked")}
    network.load_state_dict(state | counters)
    return network.eval()
