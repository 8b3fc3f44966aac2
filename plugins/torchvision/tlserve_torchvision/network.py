"""A torchvision classifier turned into a feature extractor: last layer off, taps on, ready to export."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision import models

from tlserve.plugin_api import INPUT_NAME, LAST_TAP, BackboneError, WeightsUnavailable

from .architectures import EVERY_POOLING, Activations, Family, family_of

_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")
_ONNX_LIMIT_BYTES = 2**31 - 2**20
_FLOAT_BYTES = 4
_OPSET = 18


class TappedNetwork(nn.Module):
    """The network without its last layer; forward gives {tap name: [N, width]}, shallow to deep."""

    def __init__(self, network: nn.Module, stages: tuple[str, ...], activations: Activations) -> None:
        super().__init__()
        self.network = network
        self._stages = {f"stage{number}": path for number, path in enumerate(stages, start=1)}
        self._activations: Activations = activations

    @property
    def taps(self) -> tuple[str, ...]:
        return (*self._stages, LAST_TAP)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """images: [N, 3, H, W] float32, normalised."""
        caught: dict[str, torch.Tensor] = {}
        # Hooks live for one call only, so that copies of this module never report to the original.
        hooks = [
            self.network.get_submodule(path).register_forward_hook(
                partial(_catch, caught, tap, self._activations)
            )
            for tap, path in self._stages.items()
        ]
        try:
            caught[LAST_TAP] = self.network(images)
        finally:
            for hook in hooks:
                hook.remove()
        return {tap: caught[tap] for tap in self.taps}

    def blocks(self) -> tuple[nn.Module, ...]:
        """The network cut after each stage; every parameter lies in exactly one block."""
        ends = _ends_in_parameters(self.network, tuple(self._stages.values()))
        owner = {
            id(p): sum(end <= place for end in ends) for place, p in enumerate(self.network.parameters())
        }
        blocks = [nn.ModuleList() for _ in range(len(ends) + 1)]
        _share_out(self.network, owner, blocks)
        return tuple(block for block in blocks if next(block.parameters(), None) is not None)


def build(
    architecture: str, image_size: int, *, initialise: bool, convolutions_only: bool = False
) -> TappedNetwork:
    """The network without weights worth keeping, in inference mode.

    image_size: side of the input in pixels; a ViT has an embedding for each place of the picture.
    convolutions_only: of a VGG; its features are then its last pooling, averaged over space.
    """
    options: dict[str, Any] = {}
    if architecture in ("inception_v3", "googlenet"):
        # Their weights expect inputs in [-1, 1]; torchvision converts from ImageNet's normalisation inside.
        options = {"aux_logits": False, "transform_input": True, "init_weights": initialise}
    if architecture.startswith("vit_"):
        options = {"image_size": image_size}
    network = models.get_model(architecture, weights=None, **options).eval()
    family = family_of(architecture)
    stages = _stage_paths(network, family)
    if convolutions_only:
        network.avgpool, network.classifier = nn.AdaptiveAvgPool2d(1), nn.Identity()
        stages = stages[:-1]  # the last one would equal `features`
    else:
        _take_off_last_layer(network)
    return TappedNetwork(network, stages, family.activations).eval()


def load_weights(tapped: TappedNetwork, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Copy torchvision's tensors into the network; a classifier of any number of classes is ignored.

    Raises WeightsUnavailable if a tensor is missing, left over or of another shape.
    """
    wanted = set(tapped.network.state_dict())
    kept: OrderedDict[str, torch.Tensor] = OrderedDict()
    for name, tensor in state.items():
        if name in wanted or not _of_classifier(name, wanted):
            kept[name] = tensor
    kept._metadata = getattr(state, "_metadata", {"": {"version": 2}})  # type: ignore[attr-defined]
    try:
        missing, left_over = tapped.network.load_state_dict(kept, strict=False)
    except (RuntimeError, ValueError) as exc:
        raise WeightsUnavailable(f"{source}: the weights are of another architecture: {exc}") from exc
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or left_over:
        raise WeightsUnavailable(
            f"{source}: the weights are of another architecture: "
            f"{len(missing)} tensors missing ({', '.join(missing[:3]) or 'none'}), "
            f"{len(left_over)} not expected ({', '.join(left_over[:3]) or 'none'})"
        )


def widths(tapped: TappedNetwork, height: int, width: int) -> dict[str, int]:
    """Number of features of each tap, found by passing one blank image."""
    with torch.inference_mode():
        return {tap: out.shape[1] for tap, out in tapped(torch.zeros(1, 3, height, width)).items()}


def write_onnx(tapped: TappedNetwork, path: Path, height: int, width: int) -> None:
    """One ONNX file at `path`, batch dimension free, each tap as [N, width].

    Raises BackboneError if torch cannot export it, OSError if `path` cannot be written.
    """
    refuse_too_large(sum(tensor.numel() for tensor in tapped.state_dict().values()))
    _touch(path)  # an export takes up to a minute: learn first that its file can be written
    example = torch.zeros(2, 3, height, width)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter's notes to its own developers
            program = torch.onnx.export(
                tapped,
                (example,),
                input_names=[INPUT_NAME],
                output_names=list(tapped.taps),
                opset_version=_OPSET,
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("N")},),
                verbose=False,
            )
    except Exception as exc:  # the exporter names no root of its own
        raise BackboneError(f"torch {torch.__version__} cannot export this network: {exc}") from exc
    if program is None:
        raise BackboneError(f"torch {torch.__version__} exported nothing")
    path.write_bytes(program.model_proto.SerializeToString())


def refuse_too_large(n_numbers: int) -> None:
    """Raise BackboneError if a network with so many float32 weights does not fit in one ONNX file."""
    n_bytes = n_numbers * _FLOAT_BYTES
    if n_bytes > _ONNX_LIMIT_BYTES:
        raise BackboneError(f"{n_bytes / 1e9:.1f} GB of weights do not fit in one ONNX file (2 GB at most)")


def _touch(path: Path) -> None:
    is_new = not path.exists()
    with path.open("ab"):
        pass
    if is_new:
        path.unlink()


def _catch(
    caught: dict[str, torch.Tensor],
    tap: str,
    activations: Activations,
    _module: nn.Module,
    _inputs: tuple[Any, ...],
    output: torch.Tensor,
) -> None:
    match activations:
        case "maps":
            caught[tap] = output.mean((2, 3))
        case "maps_channels_last":
            caught[tap] = output.mean((1, 2))
        case "tokens":
            caught[tap] = output[:, 1:].mean(1)


def _take_off_last_layer(network: nn.Module) -> None:
    """Replace what maps features to class scores, so that the network returns its features."""
    if isinstance(network, models.SqueezeNet):  # the one architecture that classifies by a convolution
        network.classifier = nn.AdaptiveAvgPool2d(1)
        return
    last = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1]
    parent, _, attribute = last.rpartition(".")
    setattr(network.get_submodule(parent), attribute, nn.Identity())


def _stage_paths(network: nn.Module, family: Family) -> tuple[str, ...]:
    if family.stages != EVERY_POOLING:
        return tuple(family.stages)
    children = network.get_submodule("features").named_children()
    return tuple(f"features.{name}" for name, module in children if isinstance(module, nn.MaxPool2d))


def _of_classifier(name: str, wanted: set[str]) -> bool:
    """Whether an unwanted tensor belonged to the layer taken off, or to a training-time side output."""
    if name.startswith(_AUXILIARY):
        return True
    return name.startswith(("fc.", "classifier.", "head.", "heads.")) and name.endswith((".weight", ".bias"))


def _ends_in_parameters(network: nn.Module, paths: tuple[str, ...]) -> list[int]:
    """For each path, how many of the network's parameters are registered up to the end of that module."""
    ends = dict.fromkeys(paths, 0)
    seen = 0
    for name, module in network.named_modules():
        seen += len(list(module.parameters(recurse=False)))
        for path in paths:
            if name == path or name.startswith(f"{path}."):
                ends[path] = seen
    return [ends[path] for path in paths]


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
