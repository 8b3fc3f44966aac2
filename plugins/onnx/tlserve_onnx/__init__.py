"""Backbones from ONNX files: `onnx:FILE`, with a description FILE.json beside the file.

The description (docs/plugins.md) says how pictures are prepared and which tensors are the taps; the
graph is cut there, so a classifier's own last layers fall away. Without it, loading fails with the
command that makes one.
"""

from __future__ import annotations

from pathlib import Path

from tlserve.plugin_api import (
    BackboneError,
    BackboneFacts,
    BackboneInfo,
    UnknownArchitecture,
    WeightsUnavailable,
)

from .cutting import cut_model
from .graph import n_parameters
from .inspection import Inspection, explain_missing, inspect, write_sidecar
from .proposing import Candidate
from .reading import plain_model, read_source
from .sidecar import read_sidecar, sidecar_path

__all__ = ["PLUGIN", "Candidate", "Inspection", "OnnxBackbone", "OnnxPlugin", "inspect", "write_sidecar"]

BUILD_VERSION = "2"


class OnnxBackbone:
    """A cut graph, held as the bytes that are written out."""

    def __init__(self, info: BackboneInfo, model_bytes: bytes) -> None:
        self._info = info
        self._model_bytes = model_bytes

    @property
    def info(self) -> BackboneInfo:
        return self._info

    def export(self, path: Path) -> None:
        """Raises OSError if `path` cannot be written."""
        path.write_bytes(self._model_bytes)


class OnnxPlugin:
    """Offers any ONNX file whose graph takes one image."""

    def names(self) -> tuple[str, ...]:
        return ("FILE.onnx",)

    def load(self, rest: str) -> OnnxBackbone:
        """The backbone in the file `rest`: relative to the current folder; ``~`` is the home folder.

        Raises WeightsUnavailable or BackboneError, saying what to change in the file or its description.
        """
        if not rest:
            raise UnknownArchitecture("write onnx:FILE, for example onnx:models/mobilenet_v2.onnx")
        path = Path(rest).expanduser()
        source = read_source(path)
        beside = sidecar_path(path)
        if not beside.is_file():
            raise WeightsUnavailable(explain_missing(source))
        sidecar = read_sidecar(beside)
        if fields := " and ".join(sidecar.to_fill_in()):
            raise BackboneError(f"{beside}: fill in {fields}, and check mean and std")
        model = plain_model(source)
        try:
            cut = cut_model(model, sidecar)
        except BackboneError as exc:
            raise BackboneError(f"{path} with {beside.name}: {exc}") from exc
        info = BackboneInfo(
            name=f"onnx:{rest}",
            licence=sidecar.licence,
            n_parameters=n_parameters(cut.model),
            weights_origin=sidecar.weights_origin,
            weights_sha256=source.sha256,
            build_version=f"{BUILD_VERSION}:{sidecar.choice_digest()}",
            image=sidecar.image,
            taps=cut.taps,
        )
        return OnnxBackbone(info, cut.model.SerializeToString())

    def facts(self, rest: str) -> BackboneFacts | None:
        """What a file's description says, the file itself unread; None without a description."""
        try:
            sidecar = read_sidecar(sidecar_path(Path(rest).expanduser()))
        except BackboneError:
            return None
        image = sidecar.image
        licence = None if "licence" in sidecar.to_fill_in() else sidecar.licence
        return BackboneFacts(licence=licence, height=image.height, width=image.width)


PLUGIN = OnnxPlugin()
