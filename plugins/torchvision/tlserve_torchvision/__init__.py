"""Backbones from torchvision: `torchvision/ARCH[@WEIGHTS]`.

ARCH is any image classifier of torchvision. WEIGHTS is nothing (torchvision's default, downloaded once
and checked by its hash), one of torchvision's names such as IMAGENET1K_V1, a file (.safetensors, or a
state_dict as .pth), or `random` for tests. torch is imported when a backbone is loaded, not before.
"""

from __future__ import annotations

import copy
import difflib
import importlib.util
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from tlserve.plugin_api import (
    BackboneError,
    BackboneFacts,
    BackboneInfo,
    Tap,
    TrainableModule,
    UnknownArchitecture,
)

from . import catalogue

if TYPE_CHECKING:
    from .network import TappedNetwork
    from .weights import Download

BUILD_VERSION = "1"
_LIST_ALL = "List all with: tlserve backbones --only 'torchvision/*' --all"
_log = logging.getLogger(__name__)


class TorchvisionBackbone:
    """One architecture with its weights, without its classifier."""

    def __init__(self, info: BackboneInfo, network: TappedNetwork) -> None:
        self._info = info
        self._network = network

    @property
    def info(self) -> BackboneInfo:
        return self._info

    def export(self, path: Path) -> None:
        """Write one ONNX file; every tap comes out as [N, width].

        Raises BackboneError if torch cannot export the network, OSError if `path` cannot be written.
        """
        from .network import write_onnx

        try:
            write_onnx(self._network, path, self._info.image.height, self._info.image.width)
        except BackboneError as exc:
            raise BackboneError(f"{self._info.name}: {exc}") from exc

    def torch_module(self) -> TrainableModule:
        """A copy of the network in inference mode; training it does not change this backbone."""
        network = copy.deepcopy(self._network)
        return TrainableModule(module=network, blocks=network.blocks())


class TorchvisionPlugin:
    """Offers every image classifier of the installed torchvision.

    download: how a weights file is fetched; torch's own way unless given.
    """

    def __init__(self, download: Download | None = None) -> None:
        self._download = download

    def names(self) -> tuple[str, ...]:
        """Every architecture and every set of weights that is not an architecture's default; then patterns.

        Raises BackboneError if torch or torchvision is not installed.
        """
        _check_installed()
        return (*catalogue.names(), "ARCH@FILE", "ARCH@random")

    def facts(self, rest: str) -> BackboneFacts | None:
        """From a table, without importing torch; None for a file, or what is newer than the table."""
        return catalogue.facts(rest)

    def load(self, rest: str) -> TorchvisionBackbone:
        """The backbone `ARCH` or `ARCH@WEIGHTS`.

        Raises UnknownArchitecture; WeightsUnavailable with how to get the weights; BackboneError, before
        anything is downloaded, for a network that is too large to be exported.
        """
        _check_installed()
        from . import weights as sources
        from .network import build, load_weights, widths

        architecture, _, choice = rest.partition("@")
        name = f"torchvision/{rest}"
        _check_architecture(architecture)
        _check_size(architecture, choice, name)
        found = sources.find_weights(architecture, choice, self._download or sources.torch_download)
        size = found.image
        if found.state is None:
            _log.warning("%s has random weights: its features mean nothing", name)
            network = _random_network(architecture, size.height)
            sha256 = sources.digest_of(network.state_dict())
        else:
            network = build(
                architecture, size.height, initialise=False, convolutions_only=found.convolutions_only
            )
            sha256 = found.sha256
            load_weights(network, found.state, name)
        info = BackboneInfo(
            name=name,
            licence=found.licence,
            n_parameters=sum(parameter.numel() for parameter in network.parameters()),
            weights_origin=found.origin,
            weights_sha256=sha256,
            # The architecture too: one weights file may fit several, with other features.
            build_version=f"{BUILD_VERSION}:{architecture}",
            image=size,
            taps=tuple(Tap(tap, width) for tap, width in widths(network, size.height, size.width).items()),
        )
        return TorchvisionBackbone(info, network)


def _random_network(architecture: str, image_size: int) -> TappedNetwork:
    import torch

    from .network import build

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(architecture, image_size, initialise=True)


def _check_installed() -> None:
    for package in ("torch", "torchvision", "safetensors"):
        if importlib.util.find_spec(package) is None:
            raise BackboneError(f"the torchvision backbones need {package}, which is not installed")


def _check_size(architecture: str, choice: str, name: str) -> None:
    from .network import refuse_too_large

    facts = catalogue.facts(f"{architecture}@{choice}") or catalogue.facts(architecture)
    try:
        refuse_too_large((facts and facts.n_parameters) or 0)
    except BackboneError as exc:
        raise BackboneError(f"{name}: {exc}") from exc


def _check_architecture(architecture: str) -> None:
    from torchvision import models

    offered = models.list_models(module=models)
    if architecture in offered:
        return
    if not architecture:
        raise UnknownArchitecture(f"write torchvision/ARCH, for example torchvision/resnet50. {_LIST_ALL}")
    near = difflib.get_close_matches(architecture, offered, n=5) or [
        "resnet50",
        "mobilenet_v3_large",
        "vgg16",
    ]
    raise UnknownArchitecture(
        f"torchvision has no classifier {architecture!r}; near or common ones: {', '.join(near)}. {_LIST_ALL}"
    )


PLUGIN = TorchvisionPlugin()
