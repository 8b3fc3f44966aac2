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
from tlserve.core.head import Head, Novelty, Projection
from tlserve.release.manifest import Version
from tlserve.runtime import GRAPH_FILE, GRAPH_INPUT, GRAPH_OUTPUT, BuildSpec

PROBABILITIES = "probabilities"
FEATURES = "features"
NOVELTY = "novelty"
_BACKBONE = "backbone/"
_HEAD = "head/"


def whole_graph(version: Version, spec: BuildSpec, build_folder: Path) -> onnx.ModelProto:
    """Backbone and head of `version` as one model: `pixels` in; `probabilities`, `features`, `novelty` out.

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
    part.add_novelty(version.head)
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
        "outputs": json.dumps([PROBABILITIES, FEATURES, NOVELTY]),
        "taps": json.dumps(manifest.taps),
        "version": str(manifest.version),
    }


class _HeadPart:
    """Nodes and constants of a head, under names that no backbone has."""

    def __init__(self, n_features: int) -> None:
        self.n_features = n_features
        self.scores = ""
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
                hidden = self._standardised(hidden, layer, "projection")
                hidden = self._node("MatMul", [hidden, weight], f"{_HEAD}layer{index}")
                continue
            bias = self._constant(f"bias{index}", layer.bias)
            hidden = self._node("Gemm", [hidden, weight, bias], f"{_HEAD}layer{index}")
        self.scores = hidden
        temperature = self._constant("temperature", np.asarray(head.temperature, dtype=np.float32))
        self._node("Div", [hidden, temperature], f"{_HEAD}scaled")

    def _standardised(self, rows: str, by: Projection | Novelty, whose: str) -> str:
        mean, scale = self._constant(f"{whose}_mean", by.mean), self._constant(f"{whose}_scale", by.scale)
        centred = self._node("Sub", [rows, mean], f"{_HEAD}{whose}_centred")
        return self._node("Div", [centred, scale], f"{_HEAD}{whose}_standardised")

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

    def add_novelty(self, head: Head) -> None:
        """`core.head.novelty_scores` in operators that every opset since 7 has alike."""
        block = head.novelty
        if block is None:
            nothing = self._constant("nothing", np.zeros((len(head.labels), 1), dtype=np.float32))
            novelty = self._node("MatMul", [PROBABILITIES, nothing], f"{_HEAD}novelty")
        else:
            far = self._distance(block)
            if block.doubt_weight:
                far = self._node("Add", [far, self._doubt(block)], f"{_HEAD}farness")
            novelty = self._rank(block, far)
        self._node("Reshape", [novelty, self._constant("flat", _int64(-1))], NOVELTY)

    def _distance(self, block: Novelty) -> str:
        """Cosine distance to the nearest centroid, (N, 1)."""
        rows = self._standardised(FEATURES, block, "novelty")
        squares = self._node("Mul", [rows, rows], f"{_HEAD}squares")
        ones = self._constant("novelty_ones", np.ones((self.n_features, 1), dtype=np.float32))
        root = self._node("Sqrt", [self._node("MatMul", [squares, ones], f"{_HEAD}squared")], f"{_HEAD}root")
        # Too little to change a length, but a row of zeros must not be divided by zero.
        least = self._constant("novelty_least", np.asarray(1e-12, dtype=np.float32))
        length = self._node("Add", [root, least], f"{_HEAD}length")
        unit = self._node("Div", [rows, length], f"{_HEAD}unit")
        centroids = self._centroids(block)
        nearness = self._node("MatMul", [unit, centroids], f"{_HEAD}nearness")
        one = self._constant("one", np.asarray(1, dtype=np.float32))
        return self._node("Sub", [one, self._largest(nearness, "nearest")], f"{_HEAD}distance")

    def _centroids(self, block: Novelty) -> str:
        """(n_features, n_centroids), in the two bytes each that they have in the head's file, if so."""
        wide = np.ascontiguousarray(block.centroids.T)
        half = wide.astype(np.float16)
        if not np.array_equal(half, wide):
            return self._constant("centroids", wide)
        stored = self._constant("centroids", half)
        return self._node("Cast", [stored], f"{_HEAD}centroids_wide", to=TensorProto.FLOAT)

    def _doubt(self, block: Novelty) -> str:
        """How far the best class score stays below what is sure, weighed, (N, 1)."""
        sure = self._constant("sure_at", np.asarray(block.sure_at, dtype=np.float32))
        weight = self._constant("doubt_weight", np.asarray(block.doubt_weight, dtype=np.float32))
        below = self._node("Sub", [sure, self._largest(self.scores, "best")], f"{_HEAD}below")
        return self._node("Mul", [self._node("Relu", [below], f"{_HEAD}short"), weight], f"{_HEAD}doubt")

    def _rank(self, block: Novelty, far: str) -> str:
        """What the curve says, (N, 1): the last rank less all that is still ahead of `far`."""
        widths = np.maximum(np.diff(block.distances), np.float32(1e-6))
        slopes = (np.diff(block.ranks) / widths)[:, None]
        starts, wide = (
            self._constant("curve_starts", block.distances[:-1]),
            self._constant("curve_widths", widths),
        )
        past = self._node("Relu", [self._node("Sub", [far, starts], f"{_HEAD}past")], f"{_HEAD}walked")
        left = self._node("Relu", [self._node("Sub", [wide, past], f"{_HEAD}left")], f"{_HEAD}ahead")
        missing = self._node("MatMul", [left, self._constant("curve_slopes", slopes)], f"{_HEAD}missing")
        last = self._constant("last_rank", np.asarray(block.ranks[-1], dtype=np.float32))
        return self._node("Sub", [last, missing], f"{_HEAD}novelty")

    def _largest(self, values: str, name: str) -> str:
        """The largest of each row, (N, 1); ReduceMax would need its axes said in two ways, by opset."""
        deep = self._constant(f"{name}_deep", _int64(0, 1, -1))
        flat = self._constant(f"{name}_flat", _int64(-1, 1))
        maps = self._node("Reshape", [values, deep], f"{_HEAD}{name}_map")
        pooled = self._node("GlobalMaxPool", [maps], f"{_HEAD}{name}_pooled")
        return self._node("Reshape", [pooled, flat], f"{_HEAD}{name}")

    def _constant(self, name: str, value: npt.NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), _HEAD + name))
        return _HEAD + name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: int) -> str:
        name = f"{_HEAD}{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=name, **attributes))
        return output


def _int64(*values: int) -> npt.NDArray[np.int64]:
    return np.asarray(values, dtype=np.int64)


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
    outputs = {PROBABILITIES: [len(head.labels)], FEATURES: [part.n_features], NOVELTY: []}
    for name, dims in outputs.items():
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *dims]))
    for value in graph.input:
        if value.name == GRAPH_INPUT:
            value.type.tensor_type.shape.dim[0].dim_param = "N"
