"""One of timm's networks turned into a feature extractor: taps at its stages, blocks for fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from timm.models import group_parameters
from torch import nn

from tlserve.plugin_api import LAST_TAP

N_STAGES = 4
_SAME_WITHIN = 1e-6
"""Relative; a batch normalisation that has learned nothing yet changes values by 5e-6."""


class TappedNetwork(nn.Module):
    """A network whose classifier is off; forward gives {tap name: [N, width]}, shallow to deep.

    height, width: of the input, in pixels. One picture of noise is passed to learn the widths of the taps.
    """

    def __init__(self, network: nn.Module, height: int, width: int) -> None:
        super().__init__()
        self.network = network
        self._places = stage_places(_reductions(network))
        noise = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode(), _first_calls(network) as self._calls:
            outputs = self.eval()(noise)
            if self._places and _same(outputs[f"stage{len(self._places)}"], outputs[LAST_TAP]):
                # The last stage, averaged, is what comes out: it would be stored twice.
                self._places = self._places[:-1]
                del outputs[f"stage{len(self._places) + 1}"]
        self.widths = {tap: int(output.shape[1]) for tap, output in outputs.items()}

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """images: [N, 3, H, W] float32, normalised."""
        network: Any = self.network
        if not self._places:
            output = network(images)
            if output.ndim == 4 and output.shape[1] != network.num_features == output.shape[3]:
                output = output.permute(0, 3, 1, 2)  # some encoders keep channels last
            return {LAST_TAP: pooled(output)}
        last, maps = network.forward_intermediates(images, indices=list(self._places), output_fmt="NCHW")
        outputs = {f"stage{number}": pooled(each) for number, each in enumerate(maps, start=1)}
        outputs[LAST_TAP] = pooled(network.forward_head(last))
        return outputs

    def blocks(self) -> tuple[nn.Module, ...]:
        """timm's own groups of layers, in the order of use; every parameter lies in exactly one block."""
        owner = _owners(self.network)
        blocks = [nn.ModuleList() for _ in range(max(owner.values(), default=-1) + 1)]
        _share_out(self.network, owner, blocks)
        called = {
            id(module): self._calls[name]
            for name, module in self.network.named_modules()
            if name in self._calls
        }
        filled = [block for block in blocks if next(block.parameters(), None) is not None]
        return tuple(_in_order_of_use(filled, called))


def stage_places(reductions: Sequence[float]) -> tuple[int, ...]:
    """Which of timm's intermediate outputs are taps.

    reductions: of each output in order, how many pixels of the input one of its own stands for.
    Returns the ends of the last four resolutions; where all have the same, four at even depths.
    """
    n = len(reductions)
    if len(set(reductions)) == 1 and n > 1:
        n_stages = min(N_STAGES, n)
        return tuple(n * number // n_stages - 1 for number in range(1, n_stages + 1))
    ends = [place for place in range(n) if place + 1 == n or reductions[place] != reductions[place + 1]]
    return tuple(ends[-N_STAGES:])


def pooled(output: torch.Tensor) -> torch.Tensor:
    """[N, width] from a feature map [N, width, h, w], tokens [N, T, width], or what is pooled already."""
    if output.ndim == 4:
        return output.mean((2, 3))
    return output.mean(1) if output.ndim == 3 else output


def _reductions(network: nn.Module) -> tuple[float, ...]:
    """Of each intermediate output; none for networks without, and for bare encoders, which have no head."""
    stages: Any = getattr(network, "feature_info", None)
    needed = ("forward_intermediates", "forward_head", "reset_classifier")
    if stages is None or not all(hasattr(network, method) for method in needed):
        return ()
    return tuple(stage["reduction"] for stage in stages)


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(
        one, other, rtol=0, atol=_SAME_WITHIN * float(other.abs().max())
    )


@contextmanager
def _first_calls(network: nn.Module) -> Iterator[dict[str, int]]:
    """While it is open: when each module, by name, is first called, counted from 0."""
    calls: dict[str, int] = {}
    hooks = [
        module.register_forward_pre_hook(partial(_note, calls, name))
        for name, module in network.named_modules()
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _note(calls: dict[str, int], name: str, _module: nn.Module, _inputs: tuple[Any, ...]) -> None:
    calls.setdefault(name, len(calls))


def _in_order_of_use(blocks: Sequence[nn.Module], called: Mapping[int, int]) -> list[nn.Module]:
    """Sorted by when a part is first called; a block of loose parameters stays with the one before it.

    called: for modules by id, when.
    """
    places: list[int] = []
    for block in blocks:
        used = [called[id(part)] for part in block.modules() if id(part) in called]
        places.append(min(used) if used else (places[-1] if places else -1))
    return [block for _, block in sorted(zip(places, blocks, strict=True), key=lambda one: one[0])]


def _owners(network: nn.Module) -> dict[int, int]:
    """For each parameter (by id), the number of the group it belongs to, counted from the input."""
    named = dict(network.named_parameters())
    matcher: Any = getattr(network, "group_matcher", None)
    if matcher is None:
        parts = _parts(network)
        return {
            id(p): next((n for n, part in parts if name.startswith(part)), 0) for name, p in named.items()
        }
    groups = group_parameters(network, matcher(coarse=True), reverse=True)
    last = max(groups.values(), default=0)  # timm leaves out what it holds for a part of the head
    return {id(parameter): groups.get(name, last) for name, parameter in named.items()}


def _parts(network: nn.Module) -> list[tuple[int, str]]:
    """Number and name (with a dot after it) of each child; of a sequence, of each child of that."""
    names: list[str] = []
    for name, child in network.named_children():
        inner = child.named_children() if isinstance(child, nn.Sequential | nn.ModuleList) else ()
        names += [f"{name}.{part}." for part, _ in inner] or [f"{name}."]
    return list(enumerate(names))


def _share_out(module: nn.Module, owner: dict[int, int], blocks: list[nn.ModuleList]) -> None:
    """Put each largest submodule that lies in one block into that block; loose parameters by themselves."""
    owners = {owner[id(parameter)] for parameter in module.parameters()}
    if len(owners) == 1:
        blocks[owners.pop()].append(module)
        return
    for parameter in module.parameters(recurse=False):
        blocks[owner[id(parameter)]].append(nn.ParameterList([parameter]))
    for child in module.children():
        _share_out(child, owner, blocks)
