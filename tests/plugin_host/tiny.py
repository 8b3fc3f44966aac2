"""A backbone of a few hundred numbers, and the pieces to break each of its promises."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tlserve.plugin_api import BackboneInfo, ImageSpec, Tap

SIZE = 8
IMAGE = ImageSpec(
    height=SIZE,
    width=SIZE,
    resize_short_side=10,
    mean=(100.0, 110.0, 120.0),
    std=(50.0, 60.0, 70.0),
)
INFO = BackboneInfo(
    name="tiny",
    licence="CC0-1.0",
    n_parameters=3 * 4 + 4 * 6,
    weights_origin="drawn at random in the tests",
    weights_sha256=hashlib.sha256(b"the tiny backbone of the tests").hexdigest(),
    build_version="1",
    image=IMAGE,
    taps=(Tap("stage1", 4), Tap("features", 6)),
)
DYNAMIC = "N"


@dataclass
class TinyBackbone:
    """Holds a declaration and a way to make the model that export writes."""

    info: BackboneInfo = INFO
    make_model: Callable[[], Any] = lambda: tiny_model()  # noqa: PLW0108  # defined below

    def export(self, path: Path) -> None:
        path.write_bytes(self.make_model().SerializeToString())


def tiny_model(
    *,
    before: Sequence[Any] = (),
    after: Sequence[Any] = (),
    constants: Sequence[Any] = (),
    input_name: str = "input",
    batch: int | str = DYNAMIC,
    layout: str = "NCHW",
    opset: int = 17,
    seed: int = 0,
) -> Any:
    """input -> (before: to `x`) -> 1x1 convolution, stage1 -> pooling, matrix -> (after: from `y`) features.

    Without `before`, x is the input; without `after`, y is the output.
    """
    draw = np.random.default_rng(seed)
    weights = [
        numpy_helper.from_array(draw.normal(size=(4, 3, 1, 1)).astype(np.float32), "kernel"),
        numpy_helper.from_array(draw.normal(size=(4, 6)).astype(np.float32), "matrix"),
        *constants,
    ]
    first, last = ("x" if before else input_name), ("y" if after else "features")
    nodes = list(before)
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", [first], ["turned"], perm=[0, 3, 1, 2]))
        first = "turned"
    stage = "stage1" if layout == "NCHW" else "stage1_nchw"
    nodes += [
        helper.make_node("Conv", [first, "kernel"], ["convolved"]),
        helper.make_node("Relu", ["convolved"], [stage]),
        helper.make_node("GlobalAveragePool", [stage], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], [last]),
        *after,
    ]
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", [stage], ["stage1"], perm=[0, 2, 3, 1]))
    shape = [batch, 3, SIZE, SIZE] if layout == "NCHW" else [batch, SIZE, SIZE, 3]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info("stage1", TensorProto.FLOAT, [batch, None, None, None]),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, [batch, 6]),
        ],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def with_info(**changes: Any) -> TinyBackbone:
    return TinyBackbone(info=replace(INFO, **changes))


def with_model(**options: Any) -> TinyBackbone:
    return TinyBackbone(make_model=lambda: tiny_model(**options))
