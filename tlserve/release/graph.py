"""A head as ONNX operators, appended to the backbone's graph: one self-contained model in memory.

Every way of training ends in the form of `core.head.Head`, so this is the only export there is. Needs onnx:
trainer only.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from tlserve.core.errors import CorruptState
from tlserve.core.head import Head, Projection
from tlserve.release.manifest import Version
from tlserve.runtime import GRAPH_FILE, GRAPH_INPUT, GRAPH_OUTPUT, BuildSpec

PROBABILITIES = "probabilities"
FEATURES = "features"
_BACKBONE = "backbone/"
_HEAD = "head/"


def whole_graph(version: Version, spec: BuildSpec, build_folder: Path) -> onnx.ModelProto:
    """Backbone and head of `version` as one model: `pixels` in, `probabilities` and `features` out.

    The same version and build give the same model. Raises CorruptState when they do not fit together.
    """
    model = _load_backbone(build_folder / GRAPH_FILE)
    columns = spec.columns(version.head.taps)
    n_features = len(range(spec.row_width)[columns]) if isinstance(columns, slice) else len(columns)
    if n_features != version.head.n_features:
        raise CorruptState(
            f"model {version.model!r} version {version.number} reads {version.head.n_features} features, but "
            f"{build_folder} gives {n_features} for {', '.join(version.head.taps)}"
        )
    part = _HeadPart(n_features)
    part.take_columns(columns, spec.row_width)
    part.add_layers(version.head)
    part.add_link(version.head)
    _join(model, part, version.head)
    helper.set_model_props(model, metadata(version, spec))
    model.producer_name, model.producer_version = "tlserve", ""
    return model


def metadata(version: Version, spec: BuildSpec) -> dict[str, str]:
    """What the file says of itself; lists and the image spec as JSON."""
    manifest = version.manifest
    return {
        "backbone": manifest.backbone,
        "build": spec.digest,
        "created": manifest.created_iso,
        "head_sha256": manifest.head_sha256,
        "image": json.dumps(asdict(spec.image), sort_keys=True),
        "labels": json.dumps(manifest.labels, ensure_ascii=False),
        "model": manifest.model,
        "taps": json.dumps(manifest.taps),
        "version": str(manifest.version),
    }


class _HeadPart:
    """Nodes and constants of a head, under names that no backbone has."""

    def __init__(self, n_features: int) -> None:
        self.n_features = n_features
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def take_columns(self, columns: slice | npt.NDArray[np.intp], row_width: int) -> None:
        rows = _BACKBONE + GRAPH_OUTPUT
        if not isinstance(columns, slice):
            picked = self._constant("columns", columns.astype(np.int64))
            self._node("Gather", [rows, picked], FEATURES, axis=1)
        elif range(row_width)[columns] == range(row_width):
            self._node("Identity", [rows], FEATURES)
        else:
            bounds = {"starts": columns.start, "ends": columns.stop, "axes": 1}
            inputs = [self._constant(name, np.asarray([at], dtype=np.int64)) for name, at in bounds.items()]
            self._node("Slice", [rows, *inputs], FEATURES)

    def add_layers(self, head: Head) -> None:
        hidden = FEATURES
        for index, layer in enumerate(head.layers):
            if index:
                hidden = self._node("Relu", [hidden], f"{_HEAD}relu")
            weight = self._constant(f"weight{index}", layer.weight)
            if isinstance(layer, Projection):
                hidden = self._standardised(hidden, layer)
                hidden = self._node("MatMul", [hidden, weight], f"{_HEAD}layer{index}")
                continue
            bias = self._constant(f"bias{index}", layer.bias)
            hidden = self._node("Gemm", [hidden, weight, bias], f"{_HEAD}layer{index}")
        temperature = self._constant("temperature", np.asarray(head.temperature, dtype=np.float32))
        self._node("Div", [hidden, temperature], f"{_HEAD}scaled")

    def _standardised(self, rows: str, layer: Projection) -> str:
        mean, scale = self._constant("mean", layer.mean), self._constant("scale", layer.scale)
        centred = self._node("Sub", [rows, mean], f"{_HEAD}centred")
        return self._node("Div", [centred, scale], f"{_HEAD}standardised")

    def add_link(self, head: Head) -> None:
        scaled = f"{_HEAD}scaled"
        if head.link == "softmax":
            self._node("Softmax", [scaled], PROBABILITIES, axis=1)
            return
        odds = self._node("Sigmoid", [scaled], f"{_HEAD}sigmoid")
        # As core.head has it: a row of zeros must not be divided by zero.
        least = self._constant("least", np.asarray(1e-12, dtype=np.float32))
        odds = self._node("Add", [odds, least], f"{_HEAD}odds")
        ones = self._constant("ones", np.ones((len(head.labels), 1), dtype=np.float32))
        total = self._node("MatMul", [odds, ones], f"{_HEAD}total")
        self._node("Div", [odds, total], PROBABILITIES)

    def _constant(self, name: str, value: npt.NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), _HEAD + name))
        return _HEAD + name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: int) -> str:
        name = f"{_HEAD}{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=name, **attributes))
        return output


def _load_backbone(path: Path) -> onnx.ModelProto:
    """The build's graph, its inner names out of the way of ours (`features` is a likely one)."""
    try:
        model = onnx.load(str(path))
    except Exception as exc:  # onnx and protobuf have no error class of their own in common
        mend = f"delete {path.parent}, it is built again"
        raise CorruptState(f"{path} is not a readable ONNX file ({exc}); {mend}") from exc
    return compose.add_prefix(model, _BACKBONE, rename_inputs=False, inplace=True)


def _join(model: onnx.ModelProto, part: _HeadPart, head: Head) -> None:
    graph = model.graph
    graph.node.extend(part.nodes)
    graph.initializer.extend(part.constants)
    del graph.output[:]
    outputs = {PROBABILITIES: len(head.labels), FEATURES: part.n_features}
    for name, width in outputs.items():
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width]))
    for value in graph.input:
        if value.name == GRAPH_INPUT:
            value.type.tensor_type.shape.dim[0].dim_param = "N"
