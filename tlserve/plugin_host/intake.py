"""How pictures enter a quantised graph: the same normalisation, laid out so that it costs next to nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tlserve.plugin_api import ImageSpec
from tlserve.plugin_host.wrap import CHANNELS_FIRST, NORMALISED
from tlserve.runtime import GRAPH_INPUT

_AS_WRAPPED = ["Cast", "Sub", "Div"]


def normalise_whole_rows(graph: Any, image: ImageSpec) -> None:
    """Subtract and divide on whole rows of pixels at once, in place of three channels at a time.

    Around integer convolutions ONNX Runtime moves the channels to the end, where a mean of three numbers
    is applied in steps of three: a quarter of the time of a small network. The numbers stay the same, bit
    for bit. A graph in which pictures enter in another way than `wrap` has it is left as it is.
    """
    end = next((i for i, node in enumerate(graph.node) if NORMALISED in node.output), -1)
    old = list(graph.node[: end + 1])
    if [node.op_type for node in old if node.op_type not in ("Gather", "Transpose")] != _AS_WRAPPED:
        return
    nodes = [node for node in old if node.op_type == "Gather"]
    first = nodes[0].output[0] if nodes else GRAPH_INPUT
    turned = any(node.op_type == "Transpose" for node in old)
    last = "whole/picture" if turned else NORMALISED
    nodes += [
        helper.make_node("Cast", [first], ["whole/floats"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["whole/floats", "whole/row_shape"], ["whole/rows"]),
        helper.make_node("Sub", ["whole/rows", "whole/mean"], ["whole/centred"]),
        helper.make_node("Div", ["whole/centred", "whole/std"], ["whole/normal"]),
        helper.make_node("Reshape", ["whole/normal", "whole/picture_shape"], [last]),
    ]
    if turned:
        nodes.append(helper.make_node("Transpose", [last], [NORMALISED], perm=CHANNELS_FIRST))
    nodes += graph.node[end + 1 :]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(_constants(image))


def _constants(image: ImageSpec) -> list[Any]:
    values = {
        "mean": np.tile(np.asarray(image.mean, np.float32), image.width),
        "std": np.tile(np.asarray(image.std, np.float32), image.width),
        "row_shape": np.asarray([0, image.height, image.width * 3], np.int64),
        "picture_shape": np.asarray([0, image.height, image.width, 3], np.int64),
    }
    return [numpy_helper.from_array(value, f"whole/{name}") for name, value in values.items()]
