"""A model and its sidecar become the graph of a backbone, tried on drawn pictures; or it is said why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from tlserve.plugin_api import BackboneError, Tap

from . import graph
from .running import Outputs, try_batches
from .sidecar import Sidecar


@dataclass(frozen=True)
class CutModel:
    """What is left between the picture and the taps."""

    model: Any
    """Input `input`, float32; one output [N, width] for each tap."""
    taps: tuple[Tap, ...]
    shapes: Mapping[str, tuple[int, ...]]
    """Of each tap for one picture, before it is averaged over space."""


def cut_model(model: Any, sidecar: Sidecar) -> CutModel:
    """The cut and pooled model, with a batch dimension that is free.

    model: as `reading.plain_model` gives it. Raises BackboneError, saying what to change.
    """
    sources = dict(sidecar.taps)
    cut = graph.cut(model, sidecar.input, {tap: source.tensor for tap, source in sources.items()})
    value = graph.image_inputs(model)[sidecar.input]
    shape = graph.static_shape(value)
    _check_image(value, shape, sidecar)
    outputs = _with_free_batch(cut, shape, sidecar)
    _check_ranks(outputs)
    ranks = {tap: array.ndim for tap, array in outputs.items()}
    graph.pool(cut, ranks, sources, sidecar.image.layout)
    try:
        onnx.checker.check_model(cut)
    except onnx.checker.ValidationError as exc:
        raise BackboneError(f"the cut graph is not valid ONNX: {exc}") from exc
    taps = tuple(Tap(tap, _width(outputs[tap], tap, sidecar)) for tap in sources)
    return CutModel(cut, taps, {tap: (1, *array.shape[1:]) for tap, array in outputs.items()})


def _with_free_batch(cut: Any, shape: list[int | str], sidecar: Sidecar) -> Outputs:
    problem, outputs = try_batches(cut, sidecar.image)
    if problem:
        fixed_batch = shape[0] if shape and isinstance(shape[0], int) else 1
        graph.free_reshapes(cut, fixed_batch)
        still, outputs = try_batches(cut, sidecar.image)
        if still and any(node.op_type == "DynamicQuantizeLinear" for node in cut.graph.node):
            raise BackboneError(
                f"{problem}, because the file is quantised dynamically: its scales are taken over the "
                "whole batch. Quantise it statically (onnxruntime.quantization.quantize_static), or take the "
                "float file"
            )
        if still:
            raise BackboneError(f"{problem}. Export the model again with a free (dynamic) batch dimension")
    return outputs


def _check_image(value: Any, shape: list[int | str], sidecar: Sidecar) -> None:
    image = sidecar.image
    if graph.takes_pixels(value) and (any(image.mean) or any(s != 1 for s in image.std)):
        raise BackboneError(
            f"the input {graph.described_input(value)} takes the pixels as they are, so the description's "
            f"mean must be [0, 0, 0] and std [1, 1, 1], not {list(image.mean)} and {list(image.std)}"
        )
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


def _check_ranks(outputs: Outputs) -> None:
    for tap, array in outputs.items():
        if array.ndim not in (2, 3, 4):
            raise BackboneError(
                f"tap {tap!r} has shape {array.shape}; "
                "a tap is [N, width], a feature map, or tokens [N, T, width]"
            )
        if not np.isfinite(array).all():
            raise BackboneError(f"tap {tap!r} gives NaN or infinity for a drawn picture")


def _width(array: Any, tap: str, sidecar: Sidecar) -> int:
    layout = dict(sidecar.taps)[tap].layout or sidecar.image.layout
    channels_last = array.ndim == 3 or (array.ndim == 4 and layout == "NHWC")
    return int(array.shape[-1] if channels_last else array.shape[1])
