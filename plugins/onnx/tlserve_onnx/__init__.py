"""Backbones from ONNX files: `onnx:FILE`, with a description FILE.json beside the file.

The description (docs/plugins.md) says how pictures are prepared and which tensors are the taps; the
graph is cut there, so a classifier's own last layers fall away. Without it, loading fails with a
template made from the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from tlserve.plugin_api import (
    INPUT_NAME,
    BackboneError,
    BackboneInfo,
    ImageSpec,
    Tap,
    UnknownArchitecture,
    WeightsUnavailable,
)

from . import graph
from .sidecar import Sidecar, read_sidecar, sidecar_path
from .template import explain_missing

BUILD_VERSION = "1"
_SAME_WITHIN = 1e-3

Outputs = Mapping[str, npt.NDArray[np.float32]]


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
        model, weights_sha256 = graph.read_model(path)
        beside = sidecar_path(path)
        if not beside.is_file():
            raise WeightsUnavailable(explain_missing(path, beside, model))
        sidecar = read_sidecar(beside)
        try:
            cut, outputs = _cut_with_free_batch(model, sidecar)
        except BackboneError as exc:
            raise BackboneError(f"{path} with {beside.name}: {exc}") from exc
        info = BackboneInfo(
            name=f"onnx:{rest}",
            licence=sidecar.licence,
            n_parameters=graph.n_parameters(cut),
            weights_origin=sidecar.weights_origin,
            weights_sha256=weights_sha256,
            build_version=f"{BUILD_VERSION}:{sidecar.choice_digest()}",
            image=sidecar.image,
            taps=tuple(Tap(tap, _width(outputs[tap], sidecar)) for tap, _ in sidecar.taps),
        )
        return OnnxBackbone(info, cut.SerializeToString())


def _cut_with_free_batch(model: Any, sidecar: Sidecar) -> tuple[Any, Outputs]:
    """The cut and pooled model, and what its taps gave for two images before pooling."""
    value = graph.image_inputs(model).get(sidecar.input)
    shape = graph.static_shape(value) if value is not None else []
    cut = graph.cut(model, sidecar.input, dict(sidecar.taps))
    _check_image_shape(shape, sidecar)
    problem, outputs = _try_batches(cut, sidecar.image)
    if problem:
        fixed_batch = shape[0] if shape and isinstance(shape[0], int) else 1
        graph.free_reshapes(cut, fixed_batch)
        still, outputs = _try_batches(cut, sidecar.image)
        if still:
            raise BackboneError(f"{problem}. Export the model again with a free (dynamic) batch dimension")
    _check_ranks(outputs)
    graph.pool(cut, {tap: array.ndim for tap, array in outputs.items()}, sidecar.image.layout)
    try:
        onnx.checker.check_model(cut)
    except onnx.checker.ValidationError as exc:
        raise BackboneError(f"the cut graph is not valid ONNX: {exc}") from exc
    return cut, outputs


def _check_image_shape(shape: list[int | str], sidecar: Sidecar) -> None:
    image = sidecar.image
    sides = (image.height, image.width)
    wanted = (3, *sides) if image.layout == "NCHW" else (*sides, 3)
    # A file may leave its input's shape out altogether; then running it is the only judge.
    if shape and (
        len(shape) != 4
        or any(
            isinstance(found, int) and found != want for found, want in zip(shape[1:], wanted, strict=True)
        )
    ):
        raise BackboneError(
            f"the input {sidecar.input!r} has shape {shape}, but the description says {image.layout} with "
            f"3 channels, height {image.height} and width {image.width}"
        )


def _try_batches(model: Any, image: ImageSpec) -> tuple[str, Outputs]:
    """Run two images together and alone; a non-empty text says what is wrong with the batch dimension."""
    sides = (image.height, image.width)
    shape = (2, 3, *sides) if image.layout == "NCHW" else (2, *sides, 3)
    pair = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    try:
        session = _session(model)
    except Exception as exc:  # onnxruntime raises a class of its own for each status
        raise BackboneError(f"onnxruntime cannot load the graph: {_first_line(exc)}") from exc
    taps = [output.name for output in session.get_outputs()]
    try:
        single = dict(zip(taps, session.run(None, {INPUT_NAME: pair[1:]}), strict=True))
        both = dict(zip(taps, session.run(None, {INPUT_NAME: pair}), strict=True))
    except Exception as exc:  # as above
        return f"the graph does not run on a batch: {_first_line(exc)}", {}
    for tap in taps:
        if both[tap].ndim == 0 or both[tap].shape[0] != 2 or both[tap].shape[1:] != single[tap].shape[1:]:
            return f"tap {tap!r}: one image gives shape {single[tap].shape}, two give {both[tap].shape}", both
        scale = float(np.abs(single[tap]).max(initial=0.0)) or 1.0
        if not np.allclose(both[tap][1:], single[tap], rtol=_SAME_WITHIN, atol=_SAME_WITHIN * scale):
            return f"tap {tap!r}: an image's features change with the other images of its batch", both
    return "", both


def _session(model: Any) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    # The graph runs three times only: optimising it would take longer than that.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _check_ranks(outputs: Outputs) -> None:
    for tap, array in outputs.items():
        if array.ndim not in (2, 3, 4):
            raise BackboneError(
                f"tap {tap!r} has shape {array.shape}; "
                "a tap is [N, width], a feature map, or tokens [N, T, width]"
            )


def _width(array: npt.NDArray[np.float32], sidecar: Sidecar) -> int:
    channels_last = array.ndim == 3 or (array.ndim == 4 and sidecar.image.layout == "NHWC")
    return int(array.shape[-1] if channels_last else array.shape[1])


def _first_line(exc: Exception) -> str:
    return str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__


PLUGIN = OnnxPlugin()
