"""The torch module behind `nano`: a small plain residual network, cheap on a CPU.

Only 3x3 and 1x1 convolutions, batch norm and ReLU: the operators that every runtime fuses well, and
that a batch norm folds into. The map is halved five times early on, because a CPU spends its time where
maps are large; most parameters work on 4x4. Apart from `__init__` so that listing the plugin imports no
torch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .storage import read_weights

STEM_WIDTH = 16
STAGE_WIDTHS = (32, 80, 160, 320)
STAGE_BLOCKS = (1, 2, 2, 1)
EXPANDED_WIDTH = 640


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


def _stage(n_in: int, n_out: int, n_blocks: int) -> nn.Sequential:
    blocks = [ResidualBlock(n_in, n_out, stride=2)]
    blocks += [ResidualBlock(n_out, n_out, stride=1) for _ in range(n_blocks - 1)]
    return nn.Sequential(*blocks)


class NanoNet(nn.Module):
    """Stem, four residual stages, a 1x1 expansion; every tap comes out averaged over space.

    `features` are the last three stages and the expansion side by side: a linear head reads parts and
    strokes from the stages that the expansion, which learns to name whole things, gives up.

    Input: (n, 3, h, w) float32, normalised; any h and w of at least 32 pixels.
    Output: {"stage1" .. "stage4", "features"}, each (n, width) float32.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (STEM_WIDTH, *STAGE_WIDTHS)
        self.stem = nn.Sequential(_conv_norm(3, STEM_WIDTH, 3, stride=2), nn.ReLU())
        self.stage1, self.stage2, self.stage3, self.stage4 = (
            _stage(n_in, n_out, n_blocks)
            for n_in, n_out, n_blocks in zip(widths, STAGE_WIDTHS, STAGE_BLOCKS, strict=False)
        )
        self.expand = nn.Sequential(_conv_norm(STAGE_WIDTHS[-1], EXPANDED_WIDTH, 1), nn.ReLU())

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """The stages' activations and their expansion, before averaging: (n, width, h, w)."""
        maps: dict[str, Tensor] = {}
        maps["stage1"] = x = self.stage1(self.stem(x))
        maps["stage2"] = x = self.stage2(x)
        maps["stage3"] = x = self.stage3(x)
        maps["stage4"] = x = self.stage4(x)
        maps["expanded"] = self.expand(x)
        return maps

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        means = {name: torch.mean(activations, dim=(2, 3)) for name, activations in self.maps(x).items()}
        seen = (means["stage2"], means["stage3"], means["stage4"], means.pop("expanded"))
        means["features"] = torch.cat(seen, dim=1)
        return means

    def blocks(self) -> tuple[nn.Module, ...]:
        """From shallow to deep; together they hold every parameter exactly once."""
        return (self.stem, self.stage1, self.stage2, self.stage3, self.stage4, self.expand)


def network_with(weights: bytes) -> NanoNet:
    """The network in inference mode, float32, with the weights of a file as `storage` describes it.

    Raises ValueError or RuntimeError if the file is unsound or its tensors are not exactly the network's.
    """
    network = NanoNet()
    counters = {name: t for name, t in network.state_dict().items() if name.endswith("num_batches_tracked")}
    network.load_state_dict(read_weights(weights) | counters)
    return network.eval()
