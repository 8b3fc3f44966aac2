"""A sidecar filled in as far as the graph tells, for a person to complete."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx.shape_inference

from .graph import image_inputs, static_shape

_CLASSIFIERS = ("Gemm", "MatMul")
_POOLS = ("GlobalAveragePool", "ReduceMean")
_PASSES_ON = ("Flatten", "Reshape", "Squeeze", "Identity", "Dropout", "Cast")


def explain_missing(onnx_file: Path, sidecar: Path, model: Any) -> str:
    """What to write into `sidecar`, as the text of an error."""
    shapes = _shapes(model)
    lines = [f"  {name} {shapes.get(name, '')}".rstrip() for name in _stage_candidates(model, shapes)]
    candidates = "\n".join(lines) or "  none found: look at the graph with Netron"
    # Lists of numbers on one line, as a person would write them.
    template = re.sub(r"\[\s+([^]]+?)\s+\]", _one_line, json.dumps(_template(onnx_file, model), indent=2))
    return (
        f"{onnx_file} needs a description beside it. Correct this (mean and std are in pixel units, "
        f"0 to 255) and save it as {sidecar}:\n{template}\n"
        f'Further tensors that may serve as taps (before "features"):\n{candidates}'
    )


def _one_line(match: re.Match[str]) -> str:
    return f"[{' '.join(match.group(1).split())}]"


def _template(onnx_file: Path, model: Any) -> dict[str, Any]:
    name, value = next(iter(image_inputs(model).items()), ("input", None))
    shape = static_shape(value) if value is not None else []
    layout = "NHWC" if len(shape) == 4 and shape[3] == 3 else "NCHW"
    sides = shape[1:3] if layout == "NHWC" else shape[2:4]
    height, width = (side if isinstance(side, int) else 224 for side in (*sides, "?", "?")[:2])
    return {
        "name": onnx_file.stem,
        "licence": "FILL IN: the licence of the weights",
        "weights_origin": "FILL IN: where the file comes from",
        "input": name,
        "image": {
            "height": height,
            "width": width,
            "resize_short_side": max(height, width) * 8 // 7,
            "crop": "center",
            "interpolation": "bilinear",
            "layout": layout,
            "mean": [123.675, 116.28, 103.53],
            "std": [58.395, 57.12, 57.375],
        },
        "taps": {"features": _features_candidate(model)},
    }


def _features_candidate(model: Any) -> str:
    """What goes into the last classifier layer, else what the last pooling gives, else the first output."""
    producers = {name: node for node in model.graph.node for name in node.output}
    weights = {tensor.name for tensor in model.graph.initializer}
    for node in reversed(model.graph.node):
        if node.op_type in _CLASSIFIERS and node.input[0] not in weights:
            return _before_dropout(node.input[0], producers)
    for node in reversed(model.graph.node):
        if node.op_type in _POOLS:
            return str(node.output[0])
    return str(model.graph.output[0].name)


def _before_dropout(name: str, producers: dict[str, Any]) -> str:
    while name in producers and producers[name].op_type in ("Dropout", "Identity"):
        name = producers[name].input[0]
    return name


def _shapes(model: Any) -> dict[str, list[int | str]]:
    try:
        inferred = onnx.shape_inference.infer_shapes(model).graph
    except Exception:  # a hint is not worth an error of its own
        return {}
    return {value.name: static_shape(value) for value in [*inferred.value_info, *inferred.output]}


def _stage_candidates(model: Any, shapes: dict[str, list[int | str]]) -> Iterator[str]:
    """The last feature map at each resolution, shallow to deep."""
    last_at: dict[tuple[int | str, ...], str] = {}
    for node in model.graph.node:
        shape = shapes.get(node.output[0], []) if node.output else []
        if len(shape) == 4 and node.op_type not in _PASSES_ON:
            height, width = shape[2:4]
            if isinstance(height, int) and isinstance(width, int) and height > 1:
                last_at[height, width] = node.output[0]
    yield from last_at.values()
