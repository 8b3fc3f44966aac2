"""A whole build folder in a few kilobytes, for tests that need a backbone but not a good one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from tlserve.plugin_api import BackboneInfo, ImageSpec, Tap
from tlserve.runtime import (
    GRAPH_FILE,
    GRAPH_INPUT,
    GRAPH_OUTPUT,
    REFERENCE_FILE,
    BuildSpec,
    reference_pixels,
    write_build_spec,
)

TINY_IMAGE = ImageSpec(
    height=32,
    width=32,
    resize_short_side=None,
    crop="none",
    mean=(127.5, 127.5, 127.5),
    std=(127.5, 127.5, 127.5),
)
TINY_TAPS = (Tap("early", 8), Tap("features", 16))


def tiny_info(*, seed: int = 0, scale: float = 1.0, name: str = "tiny") -> BackboneInfo:
    return BackboneInfo(
        name=name,
        licence="MIT",
        n_parameters=8 * 3 * 9 + 16 * 8 * 9,
        weights_origin=f"drawn at random with seed {seed}",
        weights_sha256=f"{seed:032x}{_bits(scale):032x}",
        build_version="1",
        image=TINY_IMAGE,
        taps=TINY_TAPS,
    )


def _bits(scale: float) -> int:
    return int(np.float32(scale).view(np.uint32))


def tiny_build(folder: Path, *, seed: int = 0, scale: float = 1.0, name: str = "tiny") -> Path:
    """Write backbone.onnx, spec.json and reference.npy of a random two-layer network into `folder`.

    Input 32x32; taps `early` (8) and `features` (16); the same bytes for the same arguments. `scale`
    multiplies every feature (1e6 leaves float16's range). Returns `folder`, created if needed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(tiny_graph(seed, scale), str(folder / GRAPH_FILE))
    spec = BuildSpec.of(tiny_info(seed=seed, scale=scale, name=name), plugin="tests")
    write_build_spec(folder, spec)
    session = ort.InferenceSession(str(folder / GRAPH_FILE), providers=["CPUExecutionProvider"])
    (rows,) = session.run([GRAPH_OUTPUT], {GRAPH_INPUT: reference_pixels(spec.image)})
    np.save(folder / REFERENCE_FILE, rows)
    return folder


def tiny_graph(seed: int, scale: float) -> onnx.ModelProto:
    draw = np.random.default_rng(seed)
    constants = {
        "mean": np.full((1, 1, 1, 1), 127.5, np.float32),
        "w1": draw.normal(0, 0.4, (8, 3, 3, 3)).astype(np.float32),
        "w2": draw.normal(0, 0.3, (16, 8, 3, 3)).astype(np.float32),
        "scale": np.float32(scale),
    }
    node = helper.make_node
    nodes = [
        node("Cast", [GRAPH_INPUT], ["raw"], to=TensorProto.FLOAT),
        node("Sub", ["raw", "mean"], ["centred"]),
        node("Div", ["centred", "mean"], ["normal"]),
        node("Transpose", ["normal"], ["x"], perm=[0, 3, 1, 2]),
        node("Conv", ["x", "w1"], ["c1"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["a1"]),
        node("Conv", ["a1", "w2"], ["c2"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", ["c2"], ["a2"]),
        node("GlobalAveragePool", ["a1"], ["g1"]),
        node("GlobalAveragePool", ["a2"], ["g2"]),
        node("Flatten", ["g1"], ["early"]),
        node("Flatten", ["g2"], ["features"]),
        node("Concat", ["early", "features"], ["unscaled"], axis=1),
        node("Mul", ["unscaled", "scale"], [GRAPH_OUTPUT]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(GRAPH_INPUT, TensorProto.UINT8, ["N", 32, 32, 3])],
        [helper.make_tensor_value_info(GRAPH_OUTPUT, TensorProto.FLOAT, ["N", 24])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model
