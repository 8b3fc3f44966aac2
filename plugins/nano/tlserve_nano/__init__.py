"""The bundled backbone `nano`: a small network whose weights travel in the package.

It needs no download and has a few million parameters, so that tlserve answers out of the box, on any machine
and offline. Bigger backbones are more accurate; MODEL_CARD.md says by how much. torch is imported only
when the network itself is asked for: listing and describing read nothing but the weights file.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlserve.plugin_api import (
    BackboneFacts,
    BackboneInfo,
    ImageSpec,
    Tap,
    TrainableModule,
    UnknownArchitecture,
    WeightsUnavailable,
)

if TYPE_CHECKING:
    from .network import NanoNet

WEIGHTS = Path(__file__).with_name("weights.safetensors")
BUILD_VERSION = "2"
IMAGE = ImageSpec(
    height=112,
    width=112,
    resize_short_side=112,
    mean=(123.675, 116.28, 103.53),
    std=(58.395, 57.12, 57.375),
)
TAPS = (Tap("stage1", 32), Tap("stage2", 80), Tap("stage3", 160), Tap("stage4", 320), Tap("features", 1200))
_REMEDY = "Reinstall tlserve, or train new weights in a source checkout: python plugins/nano/train.py --help"
_NOT_TRAINED = (".running_mean", ".running_var", ".scale")


class NanoBackbone:
    """The network with one set of weights, held as the bytes of its file: what is described is what runs."""

    def __init__(self, weights: bytes) -> None:
        """Raises ValueError if `weights` is not a safetensors file."""
        self._weights = weights
        self._info = BackboneInfo(
            name="nano",
            licence="undecided: trained on research-use data, see MODEL_CARD.md",
            n_parameters=count_parameters(weights),
            weights_origin="trained by plugins/nano/train.py on part of Tiny ImageNet; see MODEL_CARD.md",
            weights_sha256=hashlib.sha256(weights).hexdigest(),
            build_version=BUILD_VERSION,
            image=IMAGE,
            taps=TAPS,
        )

    @property
    def info(self) -> BackboneInfo:
        return self._info

    def export(self, path: Path) -> None:
        """Write the network in inference mode as one ONNX file; each tap comes out as [N, width].

        Raises WeightsUnavailable if the weights do not fit the network, OSError if `path` cannot be written.
        """
        from .onnx_export import write_onnx

        write_onnx(self._network(), path, IMAGE, tuple(tap.name for tap in TAPS))

    def torch_module(self) -> TrainableModule:
        """A fresh copy of the network, in inference mode.

        Raises WeightsUnavailable if the weights do not fit the network.
        """
        network = self._network()
        return TrainableModule(module=network, blocks=network.blocks())

    def _network(self) -> NanoNet:
        from .network import network_with

        try:
            return network_with(self._weights)
        except (RuntimeError, ValueError) as exc:
            raise WeightsUnavailable(f"nano: the weights do not fit the network ({exc}). {_REMEDY}") from exc


class NanoPlugin:
    """Offers the one backbone `nano`, written without anything after the name."""

    def __init__(self, weights: Path = WEIGHTS) -> None:
        self._weights = weights

    def names(self) -> tuple[str, ...]:
        return ("",)

    def facts(self, rest: str) -> BackboneFacts | None:
        """From the header of the weights file alone; nothing for a name that is not offered."""
        try:
            info = self.load(rest).info
        except (UnknownArchitecture, WeightsUnavailable):
            return None
        return BackboneFacts(
            licence=info.licence,
            n_parameters=info.n_parameters,
            height=IMAGE.height,
            width=IMAGE.width,
            row_width=sum(tap.width for tap in TAPS),
        )

    def load(self, rest: str) -> NanoBackbone:
        """Raises UnknownArchitecture unless `rest` is empty, WeightsUnavailable without a sound file."""
        if rest:
            raise UnknownArchitecture(f"nano has one backbone; write 'nano', not 'nano/{rest}'")
        try:
            return NanoBackbone(self._weights.read_bytes())
        except (OSError, ValueError) as exc:
            raise WeightsUnavailable(f"nano: cannot read {self._weights} ({exc}). {_REMEDY}") from exc


def count_parameters(weights: bytes) -> int:
    """How many numbers training may move, from the safetensors header.

    Running statistics and the scales of rounding do not count.

    Raises ValueError if the header is cut or not what the format says.
    Source: the safetensors format (8 bytes of little-endian header length, then JSON).
    """
    try:
        header: dict[str, dict[str, Any]] = json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
        shapes = {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
        return sum(math.prod(shape) for name, shape in shapes.items() if not name.endswith(_NOT_TRAINED))
    except (AttributeError, KeyError, TypeError) as exc:
        raise ValueError("not a safetensors file") from exc


PLUGIN = NanoPlugin()
