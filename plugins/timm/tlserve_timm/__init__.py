"""Backbones from timm: `timm/ARCH[.TAG][@WEIGHTS]` and `timm/hf-hub:ORG/NAME`.

ARCH is any architecture of the installed timm, TAG one of the sets of weights that timm knows for it, WEIGHTS
a file of tensors (.safetensors, or a state_dict as .pth) or `random`. torch and timm are imported when names
are asked for or a backbone is loaded, not before.
"""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from tlserve.plugin_api import BackboneError, BackboneFacts, BackboneInfo, Tap, TrainableModule

if TYPE_CHECKING:
    from .network import TappedNetwork

__all__ = ["PLUGIN", "TimmBackbone", "TimmPlugin"]

BUILD_VERSION = "1"
PATTERNS = ("ARCH.TAG", "ARCH@WEIGHTS", "hf-hub:ORG/NAME")
_log = logging.getLogger(__name__)


class TimmBackbone:
    """One of timm's networks with its weights, without its classifier."""

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
        from .onnx_export import write_onnx

        try:
            write_onnx(self._network, path, self._info.image.height, self._info.image.width)
        except BackboneError as exc:
            raise BackboneError(f"{self._info.name}: {exc}") from exc

    def torch_module(self) -> TrainableModule:
        """A copy of the network in inference mode; training it does not change this backbone."""
        network = copy.deepcopy(self._network)
        return TrainableModule(module=network, blocks=network.blocks())


class TimmPlugin:
    """Offers every architecture of the installed timm."""

    def names(self) -> tuple[str, ...]:
        from timm import list_models

        return (*list_models(), *PATTERNS)

    def facts(self, rest: str) -> BackboneFacts | None:
        """What timm's table of weights says; networks are not built, so nothing about sizes inside."""
        from .choice import read_choice
        from .declared import licence_of, table_entry

        if rest in PATTERNS:
            return None
        entry = table_entry(read_choice(rest))
        return BackboneFacts(
            licence=licence_of(entry) if entry.has_weights else None,
            height=entry.input_size[1],
            width=entry.input_size[2],
        )

    def load(self, rest: str) -> TimmBackbone:
        """The backbone that users call `timm/<rest>`.

        Raises UnknownArchitecture, or WeightsUnavailable with how to get the weights.
        """
        from .choice import RANDOM, read_choice
        from .network import TappedNetwork
        from .weights import load_network

        choice = read_choice(rest)
        name = f"timm/{rest}"
        loaded = load_network(choice, name)
        if choice.weights == RANDOM:
            _log.warning("%s has random weights: its features mean nothing", name)
        network = TappedNetwork(loaded.network, loaded.image.height, loaded.image.width)
        info = BackboneInfo(
            name=name,
            licence=loaded.licence,
            n_parameters=sum(parameter.numel() for parameter in network.parameters()),
            weights_origin=loaded.origin,
            weights_sha256=loaded.sha256,
            # The architecture too: one weights file may fit several, with other features.
            build_version=f"{BUILD_VERSION}:{loaded.architecture}",
            image=loaded.image,
            taps=tuple(Tap(tap, width) for tap, width in network.widths.items()),
        )
        return TimmBackbone(info, network)


PLUGIN = TimmPlugin()
