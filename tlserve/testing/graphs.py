"""Reading ONNX graphs: their constants, their nodes, and what they do to their input at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from tlserve.plugin_api import INPUT_NAME

Doubles = npt.NDArray[np.float64]

LAYERS = frozenset({"Conv", "ConvTranspose", "Einsum", "GRU", "Gemm", "LSTM", "MatMul", "RNN"}) | frozenset(
    {"ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"}
)
"""Operators with weights: how many lie on the way says how deep a tensor is. Pooling counts for nothing."""

_SAME_PLACE = frozenset({"Cast", "Identity", "Transpose"})


def nodes(graph: Any) -> Iterator[Any]:
    """Every node, those of branches and loops included."""
    for node in graph.node:
        yield node
        for inner in _inner_graphs(node):
            yield from nodes(inner)


def all_nodes(model: Any) -> Iterator[Any]:
    """Those of the graph and of the model's own functions."""
    yield from nodes(model.graph)
    for function in model.functions:
        yield from nodes(function)


def constants(model: Any, *, at_most: int) -> dict[str, Any]:
    """Constant tensors of up to `at_most` numbers, as arrays by name."""
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in all_nodes(model):
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            held[node.output[0]] = node.attribute[0].t
    return {
        name: onnx.numpy_helper.to_array(tensor)
        for name, tensor in held.items()
        if prod(tensor.dims) <= at_most
    }


def n_numbers(model: Any) -> int:
    """How many numbers the graph's weights hold; single numbers and lists of whole ones are no weights."""
    tensors = list(model.graph.initializer)
    tensors += [a.t for node in all_nodes(model) if node.op_type == "Constant" for a in node.attribute]
    shapes = (onnx.TensorProto.INT64, onnx.TensorProto.BOOL)
    return sum(prod(tensor.dims) for tensor in tensors if tensor.dims and tensor.data_type not in shapes)


def depths(graph: Any) -> dict[str, int]:
    """For each tensor, the number of `LAYERS` on the longest way to it.

    A loop counts as gone through once. What an If chooses is as deep as its deeper branch.
    """
    found: dict[str, int] = {}
    _measure(graph, found, start=0)
    return found


def _measure(graph: Any, found: dict[str, int], *, start: int) -> None:
    """Add the graph's tensors to `found`; its inputs lie at `start`. Inner nodes read outer ones by name."""
    found.update(dict.fromkeys((value.name for value in graph.input), start))
    for node in graph.node:
        depth = max((found.get(name, 0) for name in node.input if name), default=0)
        deep = dict.fromkeys(node.output, depth + (node.op_type in LAYERS))
        for inner in _inner_graphs(node):
            _measure(inner, found, start=depth)
            # A loop's body gives its condition first, which the loop does not.
            given = inner.output[-len(node.output) :]
            for name, value in zip(node.output, given, strict=False):
                deep[name] = max(deep[name], found.get(value.name, 0))
        found.update(deep)


def first_steps(model: Any) -> tuple[Doubles, Doubles]:
    """What the graph does to its input before anything else: (factor, offset), three numbers each.

    Followed as far as only one node takes the tensor, and that node adds, multiplies or moves.
    """
    held = constants(model, at_most=3)
    takers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            takers.setdefault(name, []).append(node)
    factor, offset, current = np.ones(3), np.zeros(3), INPUT_NAME
    while len(takers.get(current, ())) == 1:
        node = takers[current][0]
        step = _step(node, current, held)
        if step is None:
            break
        factor, offset, current = factor * step[0], offset * step[0] + step[1], node.output[0]
    return factor, offset


def _inner_graphs(node: Any) -> Iterator[Any]:
    """Branches of an If, bodies of a Loop or Scan."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _step(node: Any, current: str, held: Mapping[str, Any]) -> tuple[Doubles, Doubles] | None:
    """(factor, offset) of one node, None if it is of another kind."""
    if node.op_type in _SAME_PLACE:
        return np.ones(3), np.zeros(3)
    others = [name for name in node.input if name != current]
    if len(others) != 1 or others[0] not in held:
        return None
    value = np.broadcast_to(held[others[0]].astype(np.float64).ravel(), 3)
    one, zero = np.ones(3), np.zeros(3)
    steps = {"Add": (one, value), "Mul": (value, zero)}
    if node.input[0] == current:
        steps |= {"Sub": (one, -value), "Div": (1 / value, zero)}
    return steps.get(node.op_type)
