"""A backbone's exported graph, from normalised input to taps, wrapped into a build's: uint8 pixels to rows.

Only operators whose form has not changed since opset 7 are added, so that any plugin's opset will do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.compose
from onnx import TensorProto, helper, numpy_helper

from tlserve.core.types import Pixels
from tlserve.plugin_api import INPUT_NAME, BackboneInfo, ImageSpec
from tlserve.runtime import GRAPH_INPUT, GRAPH_OUTPUT

MIN_OPSET = 7
_PREFIX = "backbone/"
CHANNELS_FIRST = [0, 3, 1, 2]
NORMALISED = _PREFIX + INPUT_NAME
"""The tensor in which a wrapped backbone takes its pictures."""


def normalised(pixels: Pixels, image: ImageSpec) -> npt.NDArray[np.float32]:
    """What the head of the wrapped graph computes, in numpy: the backbone's input for these pictures.

    pixels: (n, H, W, 3) uint8 RGB. Returns (n, 3, H, W) or, for NHWC, (n, H, W, 3).
    """
    ordered = pixels if image.channel_order == "RGB" else pixels[..., ::-1]
    floats = (ordered.astype(np.float32) - np.array(image.mean, np.float32)) / np.array(image.std, np.float32)
    channels_first = floats.transpose(CHANNELS_FIRST) if image.layout == "NCHW" else floats
    return np.ascontiguousarray(channels_first, dtype=np.float32)


def signature_faults(model: Any, info: BackboneInfo) -> tuple[str, ...]:
    """Promises about names and types that an exported model breaks, in words."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    outputs = [value.name for value in model.graph.output]
    faults = []
    if [value.name for value in inputs] != [INPUT_NAME]:
        faults.append(
            f"the graph's only input must be {INPUT_NAME!r}, got {[value.name for value in inputs]}"
        )
    elif inputs[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        faults.append(f"input {INPUT_NAME!r} must be float32")
    if sorted(outputs) != sorted(tap.name for tap in info.taps):
        faults.append(
            f"the graph's outputs must be the taps {[tap.name for tap in info.taps]}, got {outputs}"
        )
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < MIN_OPSET:
        faults.append(f"ONNX opset {MIN_OPSET} or newer is needed, got {opset}")
    return tuple(faults)


def wrap(model: Any, info: BackboneInfo, ranks: Mapping[str, int]) -> Any:
    """The build's graph: `pixels` uint8 [N, H, W, 3] in, `rows` float32 [N, row_width] out.

    ranks: how many dimensions each tap comes out with; 2 is pooled already, 4 is a feature map.
    Changes `model`, whose parts it takes over.
    """
    _forget_where_it_was_made(model.graph)
    inner = model.graph
    onnx.compose.add_prefix_graph(inner, _PREFIX, inplace=True)
    head, constants = _head(info.image)
    tail = [node for tap in info.taps for node in _pooling(tap.name, ranks[tap.name], info.image)]
    tail.append(
        helper.make_node("Concat", [f"pooled/{tap.name}" for tap in info.taps], [GRAPH_OUTPUT], axis=1)
    )
    image, row_width = info.image, sum(tap.width for tap in info.taps)
    weights = {tensor.name for tensor in inner.initializer}
    pixels = helper.make_tensor_value_info(
        GRAPH_INPUT, TensorProto.UINT8, ["N", image.height, image.width, 3]
    )
    graph = helper.make_graph(
        [*head, *inner.node, *tail],
        "build",
        [pixels, *(value for value in inner.input if value.name in weights)],
        [helper.make_tensor_value_info(GRAPH_OUTPUT, TensorProto.FLOAT, ["N", row_width])],
        [*constants, *inner.initializer],
        sparse_initializer=list(inner.sparse_initializer),
    )
    return helper.make_model(
        graph,
        producer_name="tlserve",
        ir_version=model.ir_version,
        opset_imports=list(model.opset_import),
        functions=list(model.functions),
    )


def _head(image: ImageSpec) -> tuple[list[Any], list[Any]]:
    """Nodes from `pixels` to the backbone's input, and their constants."""
    nodes, constants, current = [], [], GRAPH_INPUT
    if image.channel_order == "BGR":
        constants.append(numpy_helper.from_array(np.array([2, 1, 0], np.int64), "bgr"))
        nodes.append(helper.make_node("Gather", [current, "bgr"], ["reordered"], axis=3))
        current = "reordered"
    shape = (1, 1, 1, 3)
    if image.layout == "NCHW":
        # Before the cast, where a quarter of the bytes have to be moved.
        nodes.append(helper.make_node("Transpose", [current], ["channels_first"], perm=CHANNELS_FIRST))
        current, shape = "channels_first", (1, 3, 1, 1)
    for name, values in (("mean", image.mean), ("std", image.std)):
        constants.append(numpy_helper.from_array(np.array(values, np.float32).reshape(shape), name))
    nodes += [
        helper.make_node("Cast", [current], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["floats", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "std"], [NORMALISED]),
    ]
    return nodes, constants


def _pooling(tap: str, rank: int, image: ImageSpec) -> list[Any]:
    """Nodes from a tap to `pooled/<tap>`, [N, width]."""
    source, pooled = _PREFIX + tap, f"pooled/{tap}"
    if rank == 2:
        return [helper.make_node("Identity", [source], [pooled])]
    nodes = []
    if image.layout == "NHWC":
        nodes.append(helper.make_node("Transpose", [source], [f"turned/{tap}"], perm=CHANNELS_FIRST))
        source = f"turned/{tap}"
    nodes.append(helper.make_node("GlobalAveragePool", [source], [f"mean/{tap}"]))
    nodes.append(helper.make_node("Flatten", [f"mean/{tap}"], [pooled], axis=1))
    return nodes


def _forget_where_it_was_made(graph: Any) -> None:
    """Exporters write stack traces and paths of the machine into every node."""
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    del graph.value_info[:]
    del graph.metadata_props[:]
