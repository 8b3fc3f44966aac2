"""An ONNX file cut to the part between the image and the named tensors, in the form the API asks for."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx.compose
from onnx import TensorProto, helper, numpy_helper

from tlserve.plugin_api import INPUT_NAME, BackboneError, Layout

from .quantised import scale_of
from .reading import lowest_ir_version, reads
from .sidecar import TapSource

_PREFIX = "source/"
_WEIGHT_TYPES = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.DOUBLE,
    TensorProto.BFLOAT16,
    TensorProto.INT8,
    TensorProto.UINT8,
)
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


def image_inputs(model: Any) -> dict[str, Any]:
    """The inputs that a caller must feed, by name: old files list their weights as inputs too."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return {value.name: value for value in model.graph.input if value.name not in weights}


def static_shape(value: Any) -> list[int | str]:
    """Dimensions as numbers, or names where they are free."""
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims]


def type_name(value: Any) -> str:
    """`float32`, `uint8` and so on."""
    try:
        return str(np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)).name)
    except (KeyError, TypeError):
        return "no tensor"


def described_input(value: Any) -> str:
    """`mask (int64 [N, 77])`."""
    dims = ", ".join(str(dim) for dim in static_shape(value))
    return f"{value.name} ({type_name(value)} [{dims}])"


def takes_pixels(value: Any) -> bool:
    """Whether this input wants pictures as bytes. Raises BackboneError for a type that holds no picture."""
    element = value.type.tensor_type.elem_type
    if element not in (*_FLOATS, TensorProto.UINT8):
        raise BackboneError(
            f"the input {described_input(value)} cannot take a picture: float or uint8 is needed. "
            "Export the model again with such an input"
        )
    return bool(element == TensorProto.UINT8)


def cut(model: Any, input_name: str, tensors: Mapping[str, str]) -> Any:
    """The part of the model that leads from `input_name` to the tensors, {tap: tensor name}.

    Its input is called `input`, float32, with a free batch dimension; each tensor comes out under its
    tap's name, float32, in its own shape; one of 8-bit numbers with its scale applied. Raises
    BackboneError for a name that is not in the graph, or when another input is needed.
    """
    _check_names(model, input_name, tensors)
    nodes, needed = leading_to(model.graph, set(tensors.values()), input_name)
    inputs = image_inputs(model)
    others = [
        described_input(value) for name, value in inputs.items() if name in needed and name != input_name
    ]
    named = ", ".join(tensors.values())
    if others:
        raise BackboneError(
            f"the tensors {named} also need the inputs {', '.join(others)}; a backbone takes one picture. "
            f"Choose tensors that depend on {input_name!r} only, or export that part of the model"
        )
    if input_name not in needed:
        raise BackboneError(f"the tensors {named} do not depend on {input_name!r}")
    source = inputs[input_name]
    graph = helper.make_graph(
        nodes,
        "cut",
        [_free_batch(source)],
        [onnx.ValueInfoProto(name=name) for name in dict.fromkeys(tensors.values())],
        [tensor for tensor in model.graph.initializer if tensor.name in needed],
        sparse_initializer=[s for s in model.graph.sparse_initializer if s.values.name in needed],
    )
    scales = {tensor: scale_of(graph, tensor) for tensor in tensors.values()}
    onnx.compose.add_prefix_graph(graph, _PREFIX, inplace=True)
    _name_ends(graph, source.type.tensor_type.elem_type, input_name, tensors, scales)
    return helper.make_model(
        graph,
        producer_name="tlserve_onnx",
        ir_version=lowest_ir_version(model),
        opset_imports=list(model.opset_import),
    )


def leading_to(graph: Any, wanted: set[str], input_name: str) -> tuple[list[Any], set[str]]:
    """The nodes that compute `wanted`, in the graph's order, and every name they touch."""
    needed = set(wanted)
    nodes = []
    for node in reversed(graph.node):
        # The input is where the graph is cut from, whatever a broken file may say gives it out.
        if needed.intersection(node.output) and input_name not in node.output:
            nodes.append(node)
            needed.update(reads(node))
    return nodes[::-1], needed


def free_reshapes(model: Any, batch: int) -> None:
    """Mend, in place, Reshapes of pictures that write the export's batch size into their target shape."""
    pictures = set(image_inputs(model))
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    for number, node in enumerate(model.graph.node):
        if not pictures.isdisjoint(reads(node)):
            pictures.update(node.output)
        if node.op_type != "Reshape" or node.input[0] not in pictures or node.input[1] not in constants:
            continue
        shape = numpy_helper.to_array(constants[node.input[1]]).copy()
        if shape.ndim == 1 and shape.size > 1 and shape[0] == batch:
            shape[0] = 0  # in a Reshape: as the input has it
            node.input[1] = f"free_batch_{number}"
            model.graph.initializer.append(numpy_helper.from_array(shape, node.input[1]))


def pool(model: Any, ranks: Mapping[str, int], sources: Mapping[str, TapSource], layout: Layout) -> None:
    """Make every output [N, width], in place: feature maps and tokens are averaged, or one token is taken.

    ranks: number of dimensions of each output; 4 is a feature map, 3 is tokens [N, T, width].
    layout: of feature maps whose source does not name one.
    """
    for output in model.graph.output:
        tap, rank, source = output.name, ranks[output.name], sources[output.name]
        output.CopyFrom(helper.make_tensor_value_info(tap, TensorProto.FLOAT, ["N", None]))
        if rank == 2:
            continue
        last = next(node for node in model.graph.node if tap in node.output)
        last.output[:] = [f"{tap}/map"]
        model.graph.node.extend(_pooling(tap, rank, source, layout))
        if rank == 3 and source.tokens == "first":
            model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.int64), f"{tap}/first"))


def _pooling(tap: str, rank: int, source: TapSource, layout: Layout) -> list[Any]:
    """Nodes from `<tap>/map` to `<tap>`; only operators that opset 7 has already."""
    if rank == 3 and source.tokens == "first":
        return [helper.make_node("Gather", [f"{tap}/map", f"{tap}/first"], [tap], axis=1)]
    nodes, current = [], f"{tap}/map"
    if rank == 3 or (source.layout or layout) == "NHWC":
        order = [0, 2, 1] if rank == 3 else [0, 3, 1, 2]
        nodes.append(helper.make_node("Transpose", [current], [f"{tap}/channels_first"], perm=order))
        current = f"{tap}/channels_first"
    nodes.append(helper.make_node("GlobalAveragePool", [current], [f"{tap}/mean"]))
    nodes.append(helper.make_node("Flatten", [f"{tap}/mean"], [tap], axis=1))
    return nodes


def n_parameters(model: Any) -> int:
    """Numbers stored in the graph as weights are, quantised ones too; shapes and indices do not count."""
    return sum(size_of(tensor) for tensor in weights(model.graph))


def size_of(tensor: Any) -> int:
    """Numbers in a stored tensor."""
    return math.prod(tensor.dims)


def weights(graph: Any) -> list[Any]:
    """Tensors stored in the graph whose type weights may have."""
    held = [tensor for tensor in graph.initializer if tensor.data_type in _WEIGHT_TYPES]
    for node in graph.node:
        if node.op_type == "Constant":
            held += [a.t for a in node.attribute if a.name == "value" and a.t.data_type in _WEIGHT_TYPES]
    return held


def tensor_names(graph: Any) -> list[str]:
    """Everything that a node gives out, in the order of the graph."""
    return [name for node in graph.node for name in node.output if name]


def _check_names(model: Any, input_name: str, tensors: Mapping[str, str]) -> None:
    inputs = image_inputs(model)
    if input_name not in inputs:
        found = ", ".join(described_input(value) for value in inputs.values())
        raise BackboneError(f"the graph has no input {input_name!r}; its inputs: {found or 'none'}")
    known = tensor_names(model.graph)
    for tap, tensor in tensors.items():
        if tensor not in known:
            near = difflib.get_close_matches(tensor, known, n=5, cutoff=0.4) or known[-5:]
            raise BackboneError(
                f"tap {tap!r}: the graph has no tensor {tensor!r}; near names: {', '.join(near)}"
            )


def _free_batch(source: Any) -> Any:
    value = onnx.ValueInfoProto()
    value.CopyFrom(source)
    if value.type.tensor_type.shape.dim:
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    return value


def _name_ends(
    graph: Any,
    element: int,
    input_name: str,
    tensors: Mapping[str, str],
    scales: Mapping[str, tuple[str, ...]],
) -> None:
    """Give the prefixed graph the input and outputs of the API, with casts where its type is another."""
    graph.input[0].name = INPUT_NAME
    graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    graph.node.insert(0, helper.make_node("Cast", [INPUT_NAME], [_PREFIX + input_name], to=element))
    del graph.output[:]
    for tap, tensor in tensors.items():
        graph.node.extend(_ending(tap, tensor, scales[tensor]))
        graph.output.append(onnx.ValueInfoProto(name=tap))
        graph.output[-1].type.tensor_type.elem_type = TensorProto.FLOAT


def _ending(tap: str, tensor: str, scale: Iterable[str]) -> list[Any]:
    current, nodes = _PREFIX + tensor, []
    if quantisation := [_PREFIX + name for name in scale if name]:
        nodes.append(helper.make_node("DequantizeLinear", [current, *quantisation], [f"{tap}/scaled"]))
        current = f"{tap}/scaled"
    return [*nodes, helper.make_node("Cast", [current], [tap], to=TensorProto.FLOAT)]
