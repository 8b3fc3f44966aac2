"""Files of every kind people have: half precision, 8 bits, pixels or floats, any order, version or batch."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from tlserve_onnx import PLUGIN, inspect, write_sidecar

from tlserve.plugin_api import BackboneError, BackboneFacts, WeightsUnavailable
from tlserve.plugin_host import make_build
from tlserve.runtime import BackboneSession, choose_device, reference_pixels
from tlserve.testing import check_backbone

SIZE = 32


def residual(*, size: int | str = SIZE, batch: int | str = "N", opset: int = 17, last: str = "Gemm") -> Any:
    """Three residual stages and a classifier of 5: Gemm, or a 1x1 Conv before or after the pooling."""
    draw = np.random.default_rng(0)
    held, nodes, current, width = [], [], "input", 3
    for number, wider in enumerate((8, 12, 16), start=1):
        for name, shape in (("down", (wider, width, 3, 3)), ("same", (wider, wider, 3, 3))):
            values = draw.normal(0, 1.4 / np.sqrt(shape[1] * 9), shape).astype(np.float32)
            held.append(numpy_helper.from_array(values, f"{name}{number}"))
        pads = {"pads": [1, 1, 1, 1]}
        nodes += [
            helper.make_node("Conv", [current, f"down{number}"], [f"d{number}"], strides=[2, 2], **pads),
            helper.make_node("Relu", [f"d{number}"], [f"e{number}"]),
            helper.make_node("Conv", [f"e{number}", f"same{number}"], [f"f{number}"], **pads),
            helper.make_node("Add", [f"e{number}", f"f{number}"], [f"sum{number}"]),
            helper.make_node("Relu", [f"sum{number}"], [f"stage{number}"]),
        ]
        current, width = f"stage{number}", wider
    shape = (16, 5) if last == "Gemm" else (5, 16, 1, 1)
    held.append(numpy_helper.from_array(draw.normal(size=shape).astype(np.float32), "kernel"))
    held.append(numpy_helper.from_array(np.zeros(5, np.float32), "bias"))
    flat = "flat" if last == "Gemm" else "output"
    tail = {
        "Gemm": [("GlobalAveragePool", [current], "pooled"), ("Flatten", ["pooled"], "flat")],
        "Conv after": [
            ("GlobalAveragePool", [current], "pooled"),
            ("Conv", ["pooled", "kernel", "bias"], "c"),
        ],
        "Conv before": [("Conv", [current, "kernel", "bias"], "map"), ("GlobalAveragePool", ["map"], "c")],
    }[last]
    nodes += [helper.make_node(operator, inputs, [made]) for operator, inputs, made in tail]
    if last == "Gemm":
        nodes.append(helper.make_node("Gemm", [flat, "kernel", "bias"], ["output"]))
    else:
        nodes.append(helper.make_node("Flatten", ["c"], ["output"]))
    graph = helper.make_graph(
        nodes,
        "residual",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, size, size])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch, 5])],
        held,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def saved(model: Any, folder: Path, name: str = "net") -> Path:
    path = folder / f"{name}.onnx"
    onnx.save(model, path)
    return path


def described(path: Path) -> Path:
    """The file with the proposed description beside it."""
    found = inspect(path)
    assert found.problem == ""
    write_sidecar(found)
    beside = path.with_suffix(".json")
    beside.write_text(beside.read_text().replace("FILL IN", "Of these tests"))
    return path


def rows_of(path: Path, folder: Path) -> Any:
    """What tlserve's own build of this backbone gives for the reference pictures, by tap."""
    backbone = PLUGIN.load(str(path))
    device = choose_device("cpu")
    session = BackboneSession.open(make_build(backbone, "onnx", folder / "builds", device), device)
    rows = session.rows(reference_pixels(session.spec.image))
    session.close()
    return rows


def pictures(n: int) -> Any:
    return np.random.default_rng(7).normal(size=(n, 3, SIZE, SIZE)).astype(np.float32)


class Calibration:
    """Pictures for onnxruntime's quantiser, one at a time."""

    def __init__(self, images: Any) -> None:
        self._rest = [image[None] for image in images]

    def get_next(self) -> dict[str, Any] | None:
        return {"input": self._rest.pop()} if self._rest else None


def quantised(model: Any, folder: Path, kind: str) -> Path:
    """By onnxruntime's own tool: `QDQ`, `QOperator` or `dynamic`."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static

    CalibrationDataReader.register(Calibration)
    source, path = saved(model, folder, "float"), folder / f"{kind}.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "dynamic":
            quantize_dynamic(source, path)
        else:
            quantize_static(source, path, Calibration(pictures(8)), quant_format=QuantFormat[kind])
    return path


@pytest.mark.parametrize("kind", ["QDQ", "QOperator"])
def test_taps_of_8_bit_files_are_floats_near_those_of_the_float_file(kind: str, tmp_path: Path) -> None:
    path = described(quantised(residual(), tmp_path, kind))
    assert inspect(path).quantisation == kind
    backbone = PLUGIN.load(str(path))
    assert [tap.width for tap in backbone.info.taps] == [8, 12, 16]
    check_backbone(backbone)
    backbone.export(tmp_path / "cut.onnx")
    described(tmp_path / "float.onnx")
    PLUGIN.load(str(tmp_path / "float.onnx")).export(tmp_path / "plain.onnx")
    taps = ["stage1", "stage2", "features"]
    found, wanted = (
        ort.InferenceSession(str(tmp_path / name), providers=["CPUExecutionProvider"]).run(
            taps, {"input": pictures(4)}
        )
        for name in ("cut.onnx", "plain.onnx")
    )
    for one, other in zip(found, wanted, strict=True):
        mean = other.mean((2, 3)) if other.ndim == 4 else other
        assert np.abs(one - mean).max() < 0.05 * np.abs(mean).max()


def test_taps_of_a_qdq_file_lie_behind_the_dequantisation(tmp_path: Path) -> None:
    found = inspect(quantised(residual(), tmp_path, "QDQ"))
    assert found.sidecar is not None
    assert len(found.sidecar["taps"]) == 3
    for tensor in found.sidecar["taps"].values():
        assert tensor.endswith("DequantizeLinear_Output")


@pytest.mark.parametrize("kind", ["QDQ", "QOperator"])
def test_an_8_bit_file_becomes_a_build(kind: str, tmp_path: Path) -> None:
    rows = rows_of(described(quantised(residual(), tmp_path, kind)), tmp_path)
    assert rows.shape[1] == 8 + 12 + 16
    assert np.isfinite(rows).all()


def test_scales_taken_over_the_batch_are_refused_with_what_to_do(tmp_path: Path) -> None:
    path = quantised(residual(), tmp_path, "dynamic")
    found = inspect(path)
    assert "quantize_static" in found.problem
    assert any("dynamically" in warning for warning in found.warnings)


def halved(model: Any, *, keep_io: bool) -> Any:
    """By onnxruntime's own tool, which leaves the nodes out of order where it keeps float32 ends."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return convert_float_to_float16(model, keep_io_types=keep_io)


@pytest.mark.parametrize("keep_io", [True, False])
def test_half_precision_becomes_a_build_with_the_numbers_of_the_rounded_weights(
    keep_io: bool, tmp_path: Path
) -> None:
    plain = rows_of(described(saved(residual(), tmp_path, "plain")), tmp_path / "a")
    path = described(saved(halved(residual(), keep_io=keep_io), tmp_path, "half"))
    assert "float16" in inspect(path).weights
    check_backbone(PLUGIN.load(str(path)))
    rows = rows_of(path, tmp_path / "b")
    np.testing.assert_allclose(rows, plain, rtol=1e-2, atol=1e-2 * np.abs(plain).max())


def test_half_precision_transformers_survive(exported: Callable[..., Any], tmp_path: Path) -> None:
    """onnxruntime's own fusions for such graphs crash on a CPU when they meet 16-bit floats."""
    model = halved(onnx.load(exported("vit").path), keep_io=False)
    rows = rows_of(described(saved(model, tmp_path)), tmp_path)
    assert np.isfinite(rows).all()


def test_bfloat16_weights_are_read(tmp_path: Path) -> None:
    model = residual()
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        half = helper.make_tensor(tensor.name, TensorProto.BFLOAT16, values.shape, values.ravel())
        tensor.CopyFrom(half)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    check_backbone(PLUGIN.load(str(described(saved(model, tmp_path)))))


def pixels_in(layout: str) -> Any:
    """A graph that takes uint8 and normalises by itself."""
    model = residual()
    first = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["floats", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "mean"], ["normal"]),
    ]
    ready = "normal"
    if layout == "NHWC":
        first.append(helper.make_node("Transpose", ["normal"], ["turned"], perm=[0, 3, 1, 2]))
        ready = "turned"
    model.graph.node[0].input[0] = ready
    for node in reversed(first):
        model.graph.node.insert(0, node)
    model.graph.initializer.append(numpy_helper.from_array(np.array(127.5, np.float32), "mean"))
    shape = ["N", 3, SIZE, SIZE] if layout == "NCHW" else ["N", SIZE, SIZE, 3]
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("pixels", TensorProto.UINT8, shape))
    return model


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_a_uint8_input_gets_the_pixels_as_they_are(layout: str, tmp_path: Path) -> None:
    path = described(saved(pixels_in(layout), tmp_path))
    image = json.loads(path.with_suffix(".json").read_text())["image"]
    assert (image["layout"], image["mean"], image["std"]) == (layout, [0, 0, 0], [1, 1, 1])
    check_backbone(PLUGIN.load(str(path)))
    plain = described(saved(residual(), tmp_path, "plain"))
    sidecar = json.loads(plain.with_suffix(".json").read_text())
    sidecar["image"].update(mean=[127.5] * 3, std=[127.5] * 3)
    plain.with_suffix(".json").write_text(json.dumps(sidecar))
    np.testing.assert_allclose(
        rows_of(path, tmp_path / "a"), rows_of(plain, tmp_path / "b"), rtol=1e-4, atol=1e-5
    )


def test_a_uint8_input_with_another_mean_is_refused(tmp_path: Path) -> None:
    path = described(saved(pixels_in("NCHW"), tmp_path))
    sidecar = json.loads(path.with_suffix(".json").read_text())
    sidecar["image"]["mean"] = [127.5] * 3
    path.with_suffix(".json").write_text(json.dumps(sidecar))
    with pytest.raises(BackboneError, match=r"mean must be \[0, 0, 0\] and std \[1, 1, 1\]"):
        PLUGIN.load(str(path))


def test_an_input_that_holds_no_picture_is_refused(tmp_path: Path) -> None:
    model = residual()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT8
    model.graph.node.insert(0, helper.make_node("Cast", ["input"], ["floats"], to=TensorProto.FLOAT))
    model.graph.node[1].input[0] = "floats"
    found = inspect(saved(model, tmp_path))
    assert "input (int8 [N, 3, 32, 32]) cannot take a picture" in found.problem


@pytest.mark.parametrize(("last", "features"), [("Conv after", "pooled"), ("Conv before", "stage3")])
def test_a_classifier_that_is_a_convolution_is_cut_off(last: str, features: str, tmp_path: Path) -> None:
    found = inspect(saved(residual(last=last), tmp_path))
    assert found.classifier is not None
    assert (found.classifier.n_in, found.classifier.n_out) == (16, 5)
    assert found.sidecar is not None
    assert found.sidecar["taps"]["features"] == features
    check_backbone(PLUGIN.load(str(described(found.file))))


@pytest.mark.parametrize("opset", [7, 10, 13, 18, 21, 23])
def test_any_opset_becomes_a_build(opset: int, tmp_path: Path) -> None:
    model = residual(opset=opset)
    model.ir_version = 4 if opset < 9 else 10
    rows = rows_of(described(saved(model, tmp_path)), tmp_path)
    wanted = rows_of(described(saved(residual(), tmp_path, "usual")), tmp_path / "usual")
    np.testing.assert_allclose(rows, wanted, rtol=1e-4, atol=1e-5)


def test_a_newer_ir_version_than_the_operators_need_is_lowered(tmp_path: Path) -> None:
    model = residual()
    model.ir_version = onnx.IR_VERSION
    path = described(saved(model, tmp_path))
    PLUGIN.load(str(path)).export(tmp_path / "cut.onnx")
    assert onnx.load(tmp_path / "cut.onnx").ir_version == 8


@pytest.mark.parametrize(("field", "version"), [("ir_version", 99), ("opset", 99), ("opset", 6)])
def test_versions_that_cannot_be_read_are_said_to_be_so(field: str, version: int, tmp_path: Path) -> None:
    model = residual(opset=version if field == "opset" else 17)
    if field == "ir_version":
        model.ir_version = version
    found = inspect(saved(model, tmp_path))
    assert str(version) in found.problem
    assert "port" in found.problem  # export it again, or convert


def test_a_fixed_batch_is_freed_and_said_to_be(tmp_path: Path) -> None:
    found = inspect(saved(residual(batch=1), tmp_path))
    assert found.problem == ""
    assert any("batch size is fixed" in warning for warning in found.warnings)
    check_backbone(PLUGIN.load(str(described(found.file))))


def test_a_batch_that_cannot_be_freed_is_a_problem_of_the_file(tmp_path: Path) -> None:
    model = residual(batch=2)
    model.graph.node.insert(0, helper.make_node("Add", ["input", "two"], ["shifted"]))
    model.graph.node[1].input[0] = "shifted"
    model.graph.initializer.append(numpy_helper.from_array(np.ones((2, 1, 1, 1), np.float32), "two"))
    found = inspect(saved(model, tmp_path))
    assert "dynamic" in found.problem
    assert [one.width for one in found.candidates if one.tap] == [8, 12, 16]


def test_functions_inside_a_model_are_opened(tmp_path: Path) -> None:
    model = residual()
    opsets = [helper.make_opsetid("", 17)]
    body = [helper.make_node("Relu", ["x"], ["y"])]
    model.functions.append(helper.make_function("local", "Active", ["x"], ["y"], body, opsets))
    model.opset_import.append(helper.make_opsetid("local", 1))
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type, node.domain = "Active", "local"
    path = described(saved(model, tmp_path))
    wanted = rows_of(described(saved(residual(), tmp_path, "plain")), tmp_path / "b")
    np.testing.assert_allclose(rows_of(path, tmp_path / "a"), wanted, rtol=1e-5, atol=1e-6)


def test_a_tap_says_the_layout_of_its_maps_and_which_token_it_takes(tmp_path: Path) -> None:
    path = described(saved(residual(), tmp_path))
    sidecar = json.loads(path.with_suffix(".json").read_text())
    for tap, source, advice in (
        ("stage1", {"tensor": "stage1", "layout": "CHW"}, "'layout' must be one of NCHW, NHWC"),
        ("stage1", {"tensor": "stage1", "tokens": "last"}, "'tokens' must be one of mean, first"),
        ("stage1", {"layout": "NHWC"}, "tap 'stage1' must be a tensor name"),
        ("stage1", {"tensor": "stage1", "pool": "max"}, "unknown field pool"),
    ):
        wrong = {**sidecar, "taps": {**sidecar["taps"], tap: source}}
        path.with_suffix(".json").write_text(json.dumps(wrong))
        with pytest.raises(BackboneError) as caught:
            PLUGIN.load(str(path))
        assert advice in str(caught.value)


def test_the_description_is_never_overwritten(tmp_path: Path) -> None:
    path = saved(residual(), tmp_path)
    found = inspect(path)
    path.with_suffix(".json").write_text("mine")
    with pytest.raises(WeightsUnavailable, match="is there already"):
        write_sidecar(found)
    assert path.with_suffix(".json").read_text() == "mine"
    assert "as JSON" in inspect(path).problem


def test_a_described_file_tells_its_licence_and_size_unread(tmp_path: Path) -> None:
    path = described(saved(residual(), tmp_path))
    sidecar = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**sidecar, "licence": "MIT"}))
    path.unlink()
    assert PLUGIN.facts(str(path)) == BackboneFacts(licence="MIT", height=SIZE, width=SIZE)
    assert PLUGIN.facts("FILE.onnx") is None


def test_a_licence_that_nobody_filled_in_is_listed_as_unknown(tmp_path: Path) -> None:
    path = saved(residual(), tmp_path)
    write_sidecar(inspect(path))
    assert PLUGIN.facts(str(path)) == BackboneFacts(licence=None, height=SIZE, width=SIZE)
