"""Tensors of 8-bit numbers: which ones they are, and what they stand for.

In graphs of whole quantised operators (QLinearConv and its kin) there is no float tensor to tap between
the first layer and the last, so the scale is looked up at the operator that made the tensor.
"""

from __future__ import annotations

from typing import Any

# Operator -> where among its inputs the scale of its output stands; the zero point follows it.
_SCALE_PLACES = {
    "QuantizeLinear": 1,
    "QLinearConv": 6,
    "QLinearMatMul": 6,
    "QLinearAdd": 6,
    "QLinearMul": 6,
    "QLinearAveragePool": 3,
    "QLinearGlobalAveragePool": 3,
    "QLinearReduceMean": 3,
    "QLinearSigmoid": 3,
    "QLinearLeakyRelu": 3,
    "QLinearSoftmax": 3,
    "QLinearConcat": 0,
    "QGemm": 7,
}
# Operators that give out the numbers they take, in another order or fewer of them.
_KEEPS_SCALE = (
    "Reshape",
    "Flatten",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "MaxPool",
    "Identity",
    "Slice",
    "Gather",
    "Split",
    "Clip",
    "Relu",
    "Pad",
    "Resize",
    "DepthToSpace",
    "SpaceToDepth",
    "Expand",
    "Dropout",
)


def scale_of(graph: Any, tensor: str) -> tuple[str, ...]:
    """Names of the scale and the zero point of a tensor of 8-bit numbers; nothing for a float tensor."""
    makers = {name: node for node in graph.node for name in node.output if name}
    current = tensor
    while current in makers:
        node = makers[current]
        if node.op_type in _SCALE_PLACES:
            place = _SCALE_PLACES[node.op_type]
            return tuple(node.input[place : place + 2])
        if node.op_type == "DynamicQuantizeLinear" and current == node.output[0]:
            return tuple(node.output[1:3])
        if node.op_type not in _KEEPS_SCALE:
            return ()
        current = node.input[0]
    return ()
