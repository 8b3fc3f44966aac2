"""An ONNX file as it lies on disk, made into one plain graph: data inside, nodes in order, no half floats."""

from __future__ import annotations

import graphlib
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.external_data_helper
import onnx.inliner
from onnx import TensorProto, helper, numpy_helper

from tlserve.plugin_api import BackboneError, WeightsUnavailable

MIN_OPSET = 7
_LIMIT_BYTES = 2**31 - 2**20
_FIRST_FIELD = b"\x08"
"""Exporters write the field ir_version first, which begins so."""
_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


@dataclass(frozen=True)
class Source:
    """A file with all its data, before anything is changed in it."""

    path: Path
    model: Any
    sha256: str
    """Over the file and the files of data beside it."""
    n_bytes: int
    data_files: tuple[str, ...]
    """Names of the files of data beside it."""


def read_source(path: Path) -> Source:
    """Raises WeightsUnavailable if a file is missing or is not ONNX, BackboneError if it is too large."""
    if not path.is_file():
        raise WeightsUnavailable(f"no ONNX file {path} (looked from {Path.cwd()})")
    model = _parsed(path)
    try:
        _check_texts(model.graph)
        locations = sorted(_external_locations(model.graph))
        parts = [path, *(path.parent / location for location in locations)]
        n_bytes = sum(part.stat().st_size for part in parts)
        _check_size(path, n_bytes)
        onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part.read_bytes())
    except BackboneError:
        raise
    except Exception as exc:  # protobuf, onnx and the system each raise their own
        raise WeightsUnavailable(f"cannot read {path} as an ONNX model with all its data: {exc}") from exc
    if not model.graph.node:
        raise WeightsUnavailable(f"{_not_onnx(path)}: it holds no graph")
    return Source(path, model, digest.hexdigest(), n_bytes, tuple(locations))


def _parsed(path: Path) -> Any:
    """The model without its files of data; protobuf's own words on a wrong file help nobody."""
    try:
        return onnx.load(path, load_external_data=False)
    except OSError as exc:
        raise WeightsUnavailable(f"cannot read {path}: {exc.strerror or exc}") from exc
    except Exception as exc:  # of protobuf, one for each of its formats
        with path.open("rb") as file:
            begins_well = file.read(len(_FIRST_FIELD)) == _FIRST_FIELD
        damaged = ", or its end is missing or damaged" if begins_well else ""
        raise WeightsUnavailable(f"{_not_onnx(path)}{damaged}") from exc


def _not_onnx(path: Path) -> str:
    return f"{path} is not an ONNX file ({path.stat().st_size:,} bytes)"


def plain_model(source: Source) -> Any:
    """A copy of the model that the rest of this package can work on, with the tensors' names kept.

    Raises BackboneError, with what to do, for an opset or IR version that cannot be used.
    """
    check_versions(source)
    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    sort_nodes(model.graph)
    widen_halves(model)
    return model


def opset_of(model: Any) -> int:
    """Of ONNX's own operators; 0 where the file does not say."""
    return next((int(one.version) for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)


def check_versions(source: Source) -> None:
    model, path = source.model, source.path
    opset = opset_of(model)
    if opset < MIN_OPSET:
        raise BackboneError(
            f"{path} uses ONNX opset {opset}, at least {MIN_OPSET} is needed. Export it again, or convert: "
            f'python -c "import onnx.version_converter as v, onnx; '
            f"onnx.save(v.convert_version(onnx.load('IN.onnx'), 13), 'OUT.onnx')\""
        )
    newest_opset = onnx.defs.onnx_opset_version()
    if model.ir_version > onnx.IR_VERSION or opset > newest_opset:
        raise BackboneError(
            f"{path} has IR version {model.ir_version} and opset {opset}; the installed onnx "
            f"{onnx.__version__} knows IR {onnx.IR_VERSION} and opset {newest_opset} at most. "
            "Upgrade onnx and onnxruntime, or export the model again with an older opset, such as 17"
        )


def lowest_ir_version(model: Any) -> int:
    """What the graph's operators need; exporters often write a newer one than onnxruntime reads yet."""
    needed = int(helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True))
    # Below 4 every weight would have to be an input as well.
    return max(4, min(needed, int(model.ir_version)))


def sort_nodes(graph: Any) -> None:
    """Put each node behind those it reads from, in place: onnxruntime's own half-precision tool does not."""
    makers = {name: number for number, node in enumerate(graph.node) for name in node.output if name}
    needs = {
        number: {makers[name] for name in reads(node) if name in makers}
        for number, node in enumerate(graph.node)
    }
    if all(max(before, default=-1) < number for number, before in needs.items()):
        return
    try:
        order = list(graphlib.TopologicalSorter(needs).static_order())
    except graphlib.CycleError as exc:
        raise BackboneError("the graph is broken: some of its nodes wait for each other") from exc
    nodes = [onnx.NodeProto.FromString(graph.node[number].SerializeToString()) for number in order]
    del graph.node[:]
    graph.node.extend(nodes)


def reads(node: Any) -> Iterator[str]:
    """Names a node reads, those read inside its branches and loops included."""
    yield from (name for name in node.input if name)
    for graph in _inner_graphs(node):
        for inner in graph.node:
            yield from reads(inner)
        yield from (value.name for value in graph.output)


def widen_halves(model: Any) -> None:
    """Make every 16-bit float of the model a float32, in place; the weights' values stay as they are.

    Features are float32 anyway, and onnxruntime's CPU kernels round halves in other places after it has
    optimised a graph than before, or do not survive it at all (its transformer fusions).
    """
    _widen_graph(model.graph)


def _widen_graph(graph: Any) -> None:
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for tensor in graph.sparse_initializer:
        _widen_tensor(tensor.values)
    for value in [*graph.input, *graph.output]:
        if value.type.tensor_type.elem_type in _HALVES:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    del graph.value_info[:]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _widen_tensor(attribute.t)
            elif attribute.name in ("to", "dtype", "output_dtype") and attribute.i in _HALVES:
                attribute.i = TensorProto.FLOAT
        for inner in _inner_graphs(node):
            _widen_graph(inner)


def _widen_tensor(tensor: Any) -> None:
    if tensor.data_type in _HALVES:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _inner_graphs(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        yield from attribute.graphs
        if attribute.HasField("g"):
            yield attribute.g


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


def _check_texts(graph: Any) -> None:
    """Damaged names would fail at the first use instead. Raises ValueError."""
    texts = [graph.name, *(value.name for value in [*graph.input, *graph.output, *graph.initializer])]
    for node in graph.node:
        texts += [node.op_type, node.domain, *node.input, *node.output]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a name in it is no text")


def _check_size(path: Path, n_bytes: int) -> None:
    if n_bytes > _LIMIT_BYTES:
        raise BackboneError(f"{path} has {n_bytes / 1e9:.1f} GB: more than one ONNX file can hold (2 GB)")
