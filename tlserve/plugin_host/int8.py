"""A build's graph in 8-bit numbers: ranges measured on real pictures, every sum of products in integers.

ONNX Runtime's own static quantisation does the work (uint8 activations, int8 weights per channel, written
as QuantizeLinear and DequantizeLinear around standard operators). What is decided here is which operators
take part, how pictures come in, and how ranges are found. docs/adr/0010-precision.md has the numbers.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime as ort
from onnx import helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from tlserve.core.types import Pixels
from tlserve.plugin_api import ImageSpec
from tlserve.plugin_host.intake import normalise_whole_rows
from tlserve.runtime import GRAPH_INPUT, GRAPH_OUTPUT

QUANTISED_OPERATORS = ("Conv", "MatMul", "Gemm", "Add", "Mul", "Relu", "Clip", "Sigmoid")
"""What computes in 8 bits. Between two of them numbers stay in 8 bits; whatever else stands between (pooling,
normalisation of layers, softmax) gets floats. Concat would force taps of different size into one range."""
CALIBRATION_BATCH = 4
LEAST_OPSET = 13
"""The first in which a weight may have a scale for each channel."""

_EIGHT_BITS = {"axis": 0, "quant_type": QuantType.QInt8, "symmetric": True, "reduce_range": False}


def in_int8(model: Any, image: ImageSpec, calibration: Pixels, scratch: Path, *, seven_bits: bool) -> Any:
    """The quantised graph of a build's `model` for pictures as `image` says; changes `model`.

    calibration: (n, H, W, 3) uint8. scratch: a folder for files that are gone afterwards.
    seven_bits: leave one bit of the weights unused, so that no sum saturates on processors that add two
    products in 16 bits. Depthwise convolutions keep it: ONNX Runtime sums those in 32 bits everywhere, and
    they suffer most. Raises what onnx and onnxruntime raise.
    """
    normalise_whole_rows(model.graph, image)
    plain, quantised = scratch / "plain.onnx", scratch / "quantised.onnx"
    try:
        _simplify(_with_opset(model), plain)
        at_eight_bits = _depthwise_weights(onnx.load(str(plain)).graph) if seven_bits else ()
        with _quiet():
            quantize_static(
                plain,
                quantised,
                _Pictures(calibration),
                op_types_to_quantize=list(QUANTISED_OPERATORS),
                per_channel=True,
                reduce_range=seven_bits,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options={"TensorQuantOverrides": {name: [dict(_EIGHT_BITS)] for name in at_eight_bits}},
            )
        reduced = onnx.load(str(quantised))
        _leave_rows_in_float(reduced.graph)
        return _tidied(reduced)
    finally:
        plain.unlink(missing_ok=True)
        quantised.unlink(missing_ok=True)


class _Pictures(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Hands the pictures out in small batches; only the two ends of each tensor are kept of a batch."""

    def __init__(self, pixels: Pixels) -> None:
        starts = range(0, len(pixels), CALIBRATION_BATCH)
        self._batches = (pixels[start : start + CALIBRATION_BATCH] for start in starts)

    def get_next(self) -> dict[str, Pixels] | None:
        batch = next(self._batches, None)
        return None if batch is None else {GRAPH_INPUT: np.ascontiguousarray(batch)}


def _with_opset(model: Any) -> Any:
    opset = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    return model if opset >= LEAST_OPSET else onnx.version_converter.convert_version(model, LEAST_OPSET)


def _simplify(model: Any, out: Path) -> None:
    """Constants and batch norms folded into weights, in standard operators; written to `out`."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(out)
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _depthwise_weights(graph: Any) -> tuple[str, ...]:
    """Of convolutions that look at each channel by itself: (channels, 1, height, width)."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    found = [node.input[1] for node in graph.node if node.op_type == "Conv" and node.input[1] in shapes]
    return tuple(name for name in found if shapes[name][1] == 1 < shapes[name][0])


def _leave_rows_in_float(graph: Any) -> None:
    """Take the last rounding to 8 bits off rows: nothing computes with them, and new pictures may go beyond
    the range that was measured."""
    makers = {name: node for node in graph.node for name in node.output}

    def unrounded(name: str) -> str:
        node = makers.get(name)
        if node is None or node.op_type != "DequantizeLinear":
            return name
        rounding = makers.get(node.input[0])
        return name if rounding is None else str(rounding.input[0])

    last = makers[GRAPH_OUTPUT]
    if last.op_type == "Concat":
        last.input[:] = [unrounded(name) for name in last.input]
    elif (source := unrounded(GRAPH_OUTPUT)) != GRAPH_OUTPUT:
        last.CopyFrom(helper.make_node("Identity", [source], [GRAPH_OUTPUT]))
    _drop_unused(graph)


def _drop_unused(graph: Any) -> None:
    """Roundings that nobody takes any more, and their scales. ONNX lists a node behind what it takes."""
    if any(attribute.HasField("g") for node in graph.node for attribute in node.attribute):
        return  # a subgraph takes what it needs by name, from anywhere
    taken, kept = {GRAPH_OUTPUT}, []
    for node in reversed(graph.node):
        if taken.intersection(node.output):
            kept.append(node)
            taken.update(node.input)
    weights = [tensor for tensor in graph.initializer if tensor.name in taken]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(weights)


def _tidied(model: Any) -> Any:
    """Without the operator sets that are imported and not used, and without notes of the tools."""
    used = {node.domain for node in model.graph.node} | {
        node.domain for one in model.functions for node in one.node
    }
    opsets = [one for one in model.opset_import if one.domain in used | {"", "ai.onnx"}]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    del model.metadata_props[:]
    del model.graph.value_info[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    model.producer_name, model.producer_version = "tlserve", ""
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The library recommends a step that was done just before, and prints while it calibrates."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(before)
