"""Builds in 8-bit and 16-bit numbers, made of real graphs and run by the real ONNX Runtime."""

from __future__ import annotations

import dataclasses
import hashlib
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.plugin_host.tiny import INFO, TinyBackbone, tiny_model, with_model
from tests.support_build import tiny_build
from tlserve.core.errors import BackboneProblem, BadInput, BuildMismatch, CorruptState, StoreUnavailable
from tlserve.core.precision import Precision
from tlserve.core.types import Pixels, Rows
from tlserve.images import ImageDecoder
from tlserve.plugin_api import ImageSpec
from tlserve.plugin_host import PluginHost, make_build, reduce_build
from tlserve.plugin_host.int8 import in_int8
from tlserve.runtime import (
    GRAPH_FILE,
    REFERENCE_FILE,
    BackboneSession,
    choose_device,
    read_build_spec,
    reference_pixels,
    this_processor,
)

CPU = choose_device("cpu")
INT8, FP16 = Precision.INT8, Precision.FP16


def pictures(image: ImageSpec, n: int, seed: int = 0) -> Pixels:
    """Blotches of colour under a little noise: as smooth as photographs, which white noise is not."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 256, (n, 5, 5, 3))
    rows, columns = np.arange(image.height) * 5 // image.height, np.arange(image.width) * 5 // image.width
    fine = coarse[:, rows][:, :, columns] + draw.integers(-12, 13, (n, image.height, image.width, 3))
    return np.clip(fine, 0, 255).astype(np.uint8)


def rows_of(folder: Path, pixels: Pixels, *, threads: int = 1) -> Rows:
    session = BackboneSession.open(folder, CPU, threads=threads)
    rows = session.rows(pixels)
    session.close()
    return rows


def apart(rows: Rows, others: Rows) -> float:
    """Root mean square of the difference, relative to `others`' own."""
    return float(np.sqrt(np.mean((rows - others) ** 2) / np.mean(others**2)))


def operators(folder: Path) -> set[str]:
    return {node.op_type for node in onnx.load(str(folder / GRAPH_FILE)).graph.node}


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_build(PluginHost().load("nano"), "nano", tmp_path_factory.mktemp("backbones"), CPU)


@pytest.fixture(scope="module")
def nano_int8(nano: Path) -> Path:
    return reduce_build(nano, INT8, pictures(read_build_spec(nano).image, 32), CPU)


def test_an_int8_build_gives_nearly_the_rows_of_fp32(nano: Path, nano_int8: Path) -> None:
    seen = pictures(read_build_spec(nano).image, 16, seed=1)
    rows, plain = rows_of(nano_int8, seen), rows_of(nano, seen)
    assert rows.dtype == np.float32
    assert 0 < apart(rows, plain) < 0.08


def test_an_int8_build_computes_its_convolutions_in_integers(nano_int8: Path) -> None:
    model = onnx.load(str(nano_int8 / GRAPH_FILE))
    makers = {name: node for node in model.graph.node for name in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) > 5
    for node in convolutions:
        assert [makers[name].op_type for name in node.input] == ["DequantizeLinear"] * len(node.input)
    values = constants(model)
    weights = makers[convolutions[3].input[1]]
    assert values[weights.input[0]].dtype == np.int8
    assert values[weights.input[1]].shape == values[weights.input[0]].shape[:1]


def test_the_answer_of_an_int8_build_depends_on_nobody_else_and_on_no_thread(nano_int8: Path) -> None:
    seen = pictures(read_build_spec(nano_int8).image, 9, seed=2)
    together = rows_of(nano_int8, seen)
    np.testing.assert_array_equal(rows_of(nano_int8, seen, threads=2), together)
    session = BackboneSession.open(nano_int8, CPU, threads=1)
    alone = np.concatenate([session.rows(seen[i : i + 1]) for i in range(9)])
    np.testing.assert_array_equal(alone, together)
    np.testing.assert_array_equal(session.rows(seen[::-1]), together[::-1])


def test_a_full_disk_is_no_fault_of_the_graph(nano: Path, tmp_path: Path) -> None:
    build = tmp_path / nano.name
    shutil.copytree(nano, build)
    few = pictures(read_build_spec(nano).image, 4)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        with pytest.raises(StoreUnavailable, match="cannot write the build"):
            reduce_build(build, INT8, few, CPU)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == [build]


def test_a_reduced_build_is_a_build_of_its_own_beside_the_other(nano: Path, nano_int8: Path) -> None:
    plain, spec = read_build_spec(nano), read_build_spec(nano_int8)
    assert nano_int8.parent == nano.parent
    assert nano_int8.name == spec.digest != plain.digest
    assert (spec.precision, spec.info, spec.plugin) == ("int8", plain.info, plain.plugin)
    assert spec.made_on == this_processor().describe()
    names = sorted(path.name for path in nano_int8.iterdir())
    assert names == ["backbone.onnx", "reference.npy", "spec.json"]
    BackboneSession.open(nano_int8, CPU, check=True).close()


def test_a_reduced_build_that_is_there_is_left_as_it_is(nano: Path, nano_int8: Path) -> None:
    before = (nano_int8 / GRAPH_FILE).stat().st_mtime_ns
    assert reduce_build(nano, INT8, pictures(read_build_spec(nano).image, 8, seed=9), CPU) == nano_int8
    assert (nano_int8 / GRAPH_FILE).stat().st_mtime_ns == before


def test_the_same_pictures_make_the_same_graph(tmp_path: Path) -> None:
    digests = set()
    for name in ("one", "other"):
        plain = tiny_build(tmp_path / name / "plain")
        made = reduce_build(plain, INT8, pictures(read_build_spec(plain).image, 8), CPU)
        digests.add(hashlib.sha256((made / GRAPH_FILE).read_bytes()).hexdigest())
    assert len(digests) == 1


def test_fp16_keeps_pictures_and_rows_as_they_are(nano: Path) -> None:
    spec = read_build_spec(nano)
    half = reduce_build(nano, FP16, np.empty((0, spec.image.height, spec.image.width, 3), np.uint8), CPU)
    seen = pictures(spec.image, 8, seed=1)
    rows = rows_of(half, seen)
    assert rows.dtype == np.float32
    assert 0 < apart(rows, rows_of(nano, seen)) < 0.005
    model = onnx.load(str(half / GRAPH_FILE))
    kinds = [tensor.data_type for tensor in model.graph.initializer]
    assert TensorProto.FLOAT16 in kinds
    assert TensorProto.FLOAT not in kinds
    assert (half / GRAPH_FILE).stat().st_size < 0.6 * (nano / GRAPH_FILE).stat().st_size
    session = BackboneSession.open(half, CPU, threads=1)
    np.testing.assert_allclose(session.rows(seen[2:3]), rows[2:3], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("opset", [7, 12, 13, 18, 21])
def test_a_plugin_of_any_opset_can_be_quantised(opset: int, tmp_path: Path) -> None:
    plain = make_build(with_model(opset=opset), "tiny", tmp_path, CPU)
    made = reduce_build(plain, INT8, pictures(INFO.image, 16), CPU)
    seen = pictures(INFO.image, 8, seed=1)
    assert apart(rows_of(made, seen), rows_of(plain, seen)) < 0.05


@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_layout_and_channel_order_survive(layout: str, order: str, tmp_path: Path) -> None:
    image = dataclasses.replace(INFO.image, layout=layout, channel_order=order)
    backbone = TinyBackbone(dataclasses.replace(INFO, image=image), lambda: tiny_model(layout=layout))
    plain = make_build(backbone, "tiny", tmp_path, CPU)
    seen = pictures(image, 16)
    made = reduce_build(plain, INT8, seen, CPU)
    assert apart(rows_of(made, seen), rows_of(plain, seen)) < 0.02
    assert apart(rows_of(made, seen[..., ::-1]), rows_of(plain, seen)) > 0.2


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def saturating_stage1(model: onnx.ModelProto, pixels: Pixels) -> tuple[Rows, Rows]:
    """The tap `stage1` of the quantised tiny network in numpy: with sums of two products in 16 bits, as
    processors without VNNI have them, and without that limit."""
    values = constants(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    (convolution,) = [node for node in model.graph.node if node.op_type == "Conv"]
    given, weights = (makers[name] for name in convolution.input[:2])
    scale, zero = (values[name] for name in given.input[1:3])
    normal = (pixels.astype(np.float32) - np.float32(INFO.image.mean)) / np.float32(INFO.image.std)
    small = np.clip(np.rint(normal / scale) + zero, 0, 255)
    matrix = values[weights.input[0]][:, :, 0, 0].astype(np.float64)
    pair, third = small[..., :2] @ matrix[:, :2].T, small[..., 2:] @ matrix[:, 2:].T
    sums = (np.clip(pair, -32768, 32767) + third, pair + third)
    real = [(one - zero * matrix.sum(1)) * scale * values[weights.input[1]] for one in sums]
    (after,) = [node for node in model.graph.node if node.input[0] == convolution.output[0]]
    step, base = (values[name] for name in after.input[1:3])
    again = [(np.clip(np.rint(one / step) + base, 0, 255) - base) * step for one in real]
    saturated, exact = (one.mean((1, 2)).astype(np.float32) for one in again)
    return saturated, exact


@pytest.mark.skipif(
    this_processor().saturates is not False, reason="8-bit sums may saturate on this processor"
)
def test_a_host_whose_sums_saturate_is_told_apart_from_one_that_rounds_otherwise(tmp_path: Path) -> None:
    plain = make_build(TinyBackbone(), "tiny", tmp_path, CPU)
    made = reduce_build(plain, INT8, pictures(INFO.image, 16), CPU)
    saturated, exact = saturating_stage1(
        onnx.load(str(made / GRAPH_FILE)), reference_pixels(read_build_spec(made).image)
    )
    rows = np.load(made / REFERENCE_FILE)
    np.save(made / REFERENCE_FILE, np.concatenate([exact, rows[:, 4:]], axis=1))
    BackboneSession.open(made, CPU).close()
    np.save(made / REFERENCE_FILE, np.concatenate([saturated, rows[:, 4:]], axis=1))
    with pytest.raises(BuildMismatch, match="in int8 on cpu does not reproduce"):
        BackboneSession.open(made, CPU)


def depthwise_model() -> object:
    """Of the tiny network's shape, with a depthwise convolution in front."""
    draw = np.random.default_rng(7)
    kernel = numpy_helper.from_array(draw.normal(size=(3, 1, 3, 3)).astype(np.float32), "deep")
    before = [helper.make_node("Conv", ["input", "deep"], ["x"], group=3, pads=[1, 1, 1, 1])]
    return tiny_model(before=before, constants=[kernel])


@pytest.mark.parametrize(("seven_bits", "largest"), [(True, 64), (False, 127)])
def test_seven_bits_leave_a_bit_unused_except_where_nothing_can_saturate(
    seven_bits: bool, largest: int, tmp_path: Path
) -> None:
    plain = make_build(TinyBackbone(make_model=depthwise_model), "tiny", tmp_path, CPU)
    graph = onnx.load(str(plain / GRAPH_FILE))
    seen = pictures(INFO.image, 16)
    reduced = in_int8(graph, INFO.image, seen, tmp_path, seven_bits=seven_bits)
    weights = [value for value in constants(reduced).values() if value.dtype == np.int8 and value.ndim > 1]
    depthwise = [value for value in weights if value.shape[1] == 1]
    assert [int(np.abs(value.astype(int)).max()) for value in depthwise] == [127]
    others = [value for value in weights if value.shape[1] != 1]
    assert {int(np.abs(value.astype(int)).max()) for value in others} == {largest}
    assert len(others) == 2


def test_pictures_are_normalised_in_whole_rows(nano_int8: Path) -> None:
    """Three channels at a time, it takes a quarter of the time of a small network."""
    model = onnx.load(str(nano_int8 / GRAPH_FILE))
    values = constants(model)
    (subtracted,) = [node for node in model.graph.node if node.op_type == "Sub"]
    assert values[subtracted.input[1]].shape == (read_build_spec(nano_int8).image.width * 3,)


@pytest.mark.parametrize("n_taps", [1, 2])
def test_rows_are_not_rounded_to_8_bits_at_their_end(n_taps: int, tmp_path: Path) -> None:
    """Else a brighter picture than those it was calibrated on would hit the end of their range."""
    info = dataclasses.replace(INFO, taps=INFO.taps[-n_taps:])

    def model() -> onnx.ModelProto:
        whole = tiny_model()
        del whole.graph.output[: 2 - n_taps]
        return whole

    plain = make_build(TinyBackbone(info, model), "tiny", tmp_path, CPU)
    seen = pictures(INFO.image, 32)
    made = reduce_build(plain, INT8, seen, CPU)
    graph = onnx.load(str(made / GRAPH_FILE)).graph
    assert graph.node[-1].output == ["rows"]
    makers = {name: node for node in graph.node for name in node.output}
    assert "DequantizeLinear" not in {makers[name].op_type for name in (*graph.node[-1].input, "rows")}
    assert {node.op_type for node in graph.node} >= {"QuantizeLinear", "DequantizeLinear"}
    assert apart(rows_of(made, seen), rows_of(plain, seen)) < 0.02


def test_only_standard_operators_are_in_the_graph(nano_int8: Path) -> None:
    model = onnx.load(str(nano_int8 / GRAPH_FILE))
    assert {opset.domain for opset in model.opset_import} == {""}
    assert {node.domain for node in model.graph.node} == {""}


def quantised_model() -> object:
    scale = numpy_helper.from_array(np.float32(0.05), "scale")
    zero = numpy_helper.from_array(np.uint8(128), "zero")
    before = [
        helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["small"]),
        helper.make_node("DequantizeLinear", ["small", "scale", "zero"], ["x"]),
    ]
    return tiny_model(before=before, constants=[scale, zero])


def test_what_cannot_be_reduced_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    quantised = make_build(TinyBackbone(make_model=quantised_model), "tiny", tmp_path, CPU)
    seen = pictures(INFO.image, 4)
    with pytest.raises(BackboneProblem, match="already quantised"):
        reduce_build(quantised, INT8, seen, CPU)
    plain = tiny_build(tmp_path / "plain")
    own = pictures(read_build_spec(plain).image, 4)
    with pytest.raises(BackboneProblem, match="no pictures to calibrate on"):
        reduce_build(plain, INT8, own[:0], CPU)
    with pytest.raises(BackboneProblem, match="'fp32'"):
        reduce_build(plain, Precision.FP32, own, CPU)
    with pytest.raises(BadInput, match="must be uint8"):
        reduce_build(plain, INT8, seen, CPU)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([quantised.name, "plain"])
    made = reduce_build(plain, INT8, own, CPU)
    with pytest.raises(BackboneProblem, match=f"only an fp32 build can be reduced, {made} is int8"):
        reduce_build(made, FP16, own, CPU)


def test_weights_outside_the_range_of_fp16_are_refused(tmp_path: Path) -> None:
    plain = tiny_build(tmp_path / "plain", scale=1e6)
    with pytest.raises(BackboneProblem, match="over 65504, the largest in float16"):
        reduce_build(plain, FP16, pictures(read_build_spec(plain).image, 1), CPU)


@pytest.mark.parametrize("precision", [INT8, FP16])
def test_a_broken_fp32_graph_is_corrupt_state(precision: Precision, tmp_path: Path) -> None:
    plain = tiny_build(tmp_path / "plain")
    (plain / GRAPH_FILE).write_bytes(b"rubbish" * 50)
    with pytest.raises(CorruptState, match=GRAPH_FILE):
        reduce_build(plain, precision, pictures(read_build_spec(plain).image, 1), CPU)
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]


@pytest.mark.slow
def test_mobilenet_in_int8_sees_flowers_as_in_fp32(shared: Callable[[str], Path], tmp_path: Path) -> None:
    backbone = PluginHost().load(f"onnx:{shared('backbones/mobilenet_v2_imagenet.onnx')}")
    plain = make_build(backbone, "onnx", tmp_path, CPU)
    spec = read_build_spec(plain)
    files = sorted(shared("datasets/flowers").rglob("*.jpg"))[::61][:48]
    decoder = ImageDecoder(spec.image)
    seen = np.stack([decoder.decode(file.read_bytes()) for file in files])
    made = reduce_build(plain, INT8, seen[:32], CPU)
    rows, own = rows_of(made, seen[32:]), rows_of(plain, seen[32:])
    for tap in spec.taps:
        columns = spec.columns((tap.name,))
        assert apart(rows[:, columns], own[:, columns]) < 0.15, tap
    assert operators(made) >= {"QuantizeLinear", "DequantizeLinear"}
