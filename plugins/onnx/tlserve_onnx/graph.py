"""An ONNX file cut to the part between the image and the named tensors, in the form the API asks for."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
import onnx.compose
import onnx.external_data_helper
from onnx import TensorProto, helper, numpy_helper

from tlserve.plugin_api import INPUT_NAME, BackboneError, Layout, WeightsUnavailable

MIN_OPSET = 7
_LIMIT_BYTES = 2**31 - 2**20
_PREFIX = "source/"
_WEIGHT_TYPES = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.DOUBLE,
    TensorProto.BFLOAT16,
    TensorProto.INT8,
    TensorProto.UINT8,
)


def read_model(path: Path) -> tuple[Any, str]:
    """The model with external data inside it, and the sha256 over its file(s).

    Raises WeightsUnavailable if a file is missing or is not ONNX, BackboneError if it is too old or large.
    """
    if not path.is_file():
        raise WeightsUnavailable(f"no ONNX file {path} (looked from {Path.cwd()})")
    try:
        model = onnx.load(path, load_external_data=False)
        parts = [path.parent / location for location in sorted(_external_locations(model.graph))]
        _check_size([path, *parts])
        onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
    except BackboneError:
        raise
    except Exception as exc:  # protobuf, onnx and the system each raise their own
        raise WeightsUnavailable(f"cannot read {path} as an ONNX model with all its data: {exc}") from exc
    if not model.graph.node:
        raise WeightsUnavailable(f"{path} is not an ONNX model: it holds no graph")
    _check_opset(model, path)
    digest = hashlib.sha256()
    for part in [path, *parts]:
        digest.update(part.read_bytes())
    return model, digest.hexdigest()


def image_inputs(model: Any) -> dict[str, Any]:
    """The inputs that a caller must feed, by name: old files list their weights as inputs too."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return {value.name: value for value in model.graph.input if value.name not in weights}


def static_shape(value: Any) -> list[int | str]:
    """Dimensions as numbers, or names where they are free."""
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims]


def cut(model: Any, input_name: str, tensors: Mapping[str, str]) -> Any:
    """The part of the model that leads from `input_name` to the tensors, {tap: tensor name}.

    Its input is called `input`, float32, with a free batch dimension; each tensor comes out under its
    tap's name, float32, in its own shape. Raises BackboneError for a name that is not in the graph, or
    when another input is needed.
    """
    _check_names(model, input_name, tensors)
    nodes, needed = _leading_to(model.graph, set(tensors.values()), input_name)
    others = [name for name in image_inputs(model) if name in needed and name != input_name]
    if others or input_name not in needed:
        cause = f"also need the inputs {', '.join(others)}" if others else f"do not depend on {input_name!r}"
        raise BackboneError(f"the tensors {', '.join(tensors.values())} {cause}")
    source = image_inputs(model)[input_name]
    graph = helper.make_graph(
        nodes,
        "cut",
        [_free_batch(source)],
        [onnx.ValueInfoProto(name=name) for name in dict.fromkeys(tensors.values())],
        [tensor for tensor in model.graph.initializer if tensor.name in needed],
        sparse_initializer=[s for s in model.graph.sparse_initializer if s.values.name in needed],
    )
    onnx.compose.add_prefix_graph(graph, _PREFIX, inplace=True)
    _name_ends(graph, source.type.tensor_type.elem_type, input_name, tensors)
    return helper.make_model(
        graph,
        producer_name="tlserve_onnx",
        ir_version=max(model.ir_version, 4),  # below 4 every weight would have to be an input as well
        opset_imports=list(model.opset_import),
        functions=list(model.functions),
    )


def free_reshapes(model: Any, batch: int) -> None:
    """Mend, in place, Reshapes that write the batch size `batch` of the export into their target shape."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    for number, node in enumerate(model.graph.node):
        if node.op_type != "Reshape" or len(node.input) < 2 or node.input[1] not in constants:
            continue
        shape = numpy_helper.to_array(constants[node.input[1]]).copy()
        if shape.ndim == 1 and shape.size > 1 and shape[0] == batch:
            shape[0] = 0  # in a Reshape: as the input has it
            node.input[1] = f"free_batch_{number}"
            model.graph.initializer.append(numpy_helper.from_array(shape, node.input[1]))


def pool(model: Any, ranks: Mapping[str, int], layout: Layout) -> None:
    """Average each output over space, in place, so that all become [N, width].

    ranks: number of dimensions of each output; 4 is a feature map, 3 is tokens [N, T, width].
    """
    orders = {3: [0, 2, 1], 4: [0, 3, 1, 2]}
    for output in model.graph.output:
        tap, rank = output.name, ranks[output.name]
        output.CopyFrom(helper.make_tensor_value_info(tap, TensorProto.FLOAT, ["N", None]))
        if rank == 2:
            continue
        last = next(node for node in model.graph.node if tap in node.output)
        last.output[:] = [f"{tap}/map"]
        current = f"{tap}/map"
        if rank == 3 or layout == "NHWC":
            model.graph.node.append(
                helper.make_node("Transpose", [current], [f"{tap}/channels_first"], perm=orders[rank])
            )
            current = f"{tap}/channels_first"
        model.graph.node.append(helper.make_node("GlobalAveragePool", [current], [f"{tap}/mean"]))
        model.graph.node.append(helper.make_node("Flatten", [f"{tap}/mean"], [tap], axis=1))


def n_parameters(model: Any) -> int:
    """Numbers stored in the graph as weights are, quantised ones too; shapes and indices do not count."""
    held = [tensor for tensor in model.graph.initializer if tensor.data_type in _WEIGHT_TYPES]
    for node in model.graph.node:
        if node.op_type == "Constant":
            held += [a.t for a in node.attribute if a.name == "value" and a.t.data_type in _WEIGHT_TYPES]
    return sum(int(numpy_helper.to_array(tensor).size) for tensor in held)


def tensor_names(graph: Any) -> list[str]:
    """Everything that a node gives out, in the order of the graph."""
    return [name for node in graph.node for name in node.output if name]


def _check_names(model: Any, input_name: str, tensors: Mapping[str, str]) -> None:
    inputs = image_inputs(model)
    if input_name not in inputs:
        raise BackboneError(
            f"the graph has no input {input_name!r}; its inputs: {', '.join(inputs) or 'none'}"
        )
    known = tensor_names(model.graph)
    for tap, tensor in tensors.items():
        if tensor not in known:
            near = difflib.get_close_matches(tensor, known, n=5, cutoff=0.4) or known[-5:]
            raise BackboneError(
                f"tap {tap!r}: the graph has no tensor {tensor!r}; near names: {', '.join(near)}"
            )


def _leading_to(graph: Any, wanted: set[str], input_name: str) -> tuple[list[Any], set[str]]:
    """The nodes that compute `wanted`, in the graph's order, and every name they touch."""
    needed = set(wanted)
    nodes = []
    for node in reversed(graph.node):
        # The input is where the graph is cut from, whatever a broken file may say gives it out.
        if needed.intersection(node.output) and input_name not in node.output:
            nodes.append(node)
            needed.update(_reads(node))
    return nodes[::-1], needed


def _reads(node: Any) -> Iterator[str]:
    """Names a node reads, those read inside its branches and loops included."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
            for inner in graph.node:
                yield from _reads(inner)
            yield from (value.name for value in graph.output)


def _free_batch(source: Any) -> Any:
    value = onnx.ValueInfoProto()
    value.CopyFrom(source)
    if value.type.tensor_type.shape.dim:
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    return value


def _name_ends(graph: Any, element: int, input_name: str, tensors: Mapping[str, str]) -> None:
    """Give the prefixed graph the input and outputs of the API, with casts where its type is another."""
    graph.input[0].name = INPUT_NAME
    graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    graph.node.insert(0, helper.make_node("Cast", [INPUT_NAME], [_PREFIX + input_name], to=element))
    del graph.output[:]
    for tap, tensor in tensors.items():
        graph.node.append(helper.make_node("Cast", [_PREFIX + tensor], [tap], to=TensorProto.FLOAT))
        graph.output.append(onnx.ValueInfoProto(name=tap))
        graph.output[-1].type.tensor_type.elem_type = TensorProto.FLOAT


def _external_locations(graph: Any) -> set[str]:
    return {
        onnx.external_data_helper.ExternalDataInfo(tensor).location
        for tensor in _tensors(graph.initializer, graph.node)
        if onnx.external_data_helper.uses_external_data(tensor)
    }


def _tensors(initializers: Iterable[Any], nodes: Iterable[Any]) -> Iterator[Any]:
    yield from initializers
    for node in nodes:
        yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))


def _check_size(files: list[Path]) -> None:
    n_bytes = sum(file.stat().st_size for file in files)
    if n_bytes > _LIMIT_BYTES:
        raise BackboneError(f"{files[0]} has {n_bytes / 1e9:.1f} GB: more than one ONNX file can hold (2 GB)")


def _check_opset(model: Any, path: Path) -> None:
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < MIN_OPSET:
        raise BackboneError(
            f"{path} uses ONNX opset {opset}, at least {MIN_OPSET} is needed. Export it again, or convert: "
            f'python -c "import onnx.version_converter as v, onnx; '
            f"onnx.save(v.convert_version(onnx.load('IN.onnx'), 13), 'OUT.onnx')\""
        )
