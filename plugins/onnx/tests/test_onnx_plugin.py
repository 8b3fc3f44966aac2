"""ONNX files as backbones: cut at named tensors, described by a sidecar, refused with advice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from tlserve_onnx import PLUGIN

from tlserve.plugin_api import BackboneError, Tap, UnknownArchitecture, WeightsUnavailable
from tlserve.testing import check_backbone

SIZE = 16
SIDECAR: dict[str, Any] = {
    "name": "small",
    "licence": "CC0-1.0",
    "weights_origin": "drawn at random in the tests",
    "input": "picture",
    "image": {
        "height": SIZE,
        "width": SIZE,
        "resize_short_side": 18,
        "mean": [100, 110, 120.5],
        "std": [50, 60, 70],
    },
    "taps": {"stage1": "relu1", "features": "flat"},
}


def constant(name: str, *shape: int) -> Any:
    draw = np.random.default_rng(len(name))
    return numpy_helper.from_array(draw.normal(size=shape).astype(np.float32), name)


def classifier(
    *,
    batch: int | str = "N",
    opset: int = 13,
    flatten: Any = None,
    ir_version: int = 8,
    extra_inputs: Any = (),
) -> Any:
    """picture -> conv (stride 2) -> relu1 -> conv -> relu2 -> pool -> flat -> logits -> softmax."""
    weights = [constant("w1", 8, 3, 3, 3), constant("w2", 12, 8, 3, 3), constant("wc", 12, 5)]
    weights.append(numpy_helper.from_array(np.array([1, 12], np.int64), "fixed_shape"))
    nodes = [
        helper.make_node("Conv", ["picture", "w1"], ["conv1"], strides=[2, 2]),
        helper.make_node("Relu", ["conv1"], ["relu1"]),
        helper.make_node("Conv", ["relu1", "w2"], ["conv2"]),
        helper.make_node("Relu", ["conv2"], ["relu2"]),
        helper.make_node("GlobalAveragePool", ["relu2"], ["pooled"]),
        flatten or helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "wc"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    inputs = [
        helper.make_tensor_value_info("picture", TensorProto.FLOAT, [batch, 3, SIZE, SIZE]),
        *extra_inputs,
    ]
    outputs = [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [batch, 5])]
    graph = helper.make_graph(nodes, "classifier", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def written(folder: Path, model: Any, sidecar: Any = SIDECAR, name: str = "small.onnx") -> str:
    path = folder / name
    onnx.save(model, path)
    if sidecar is not None:
        path.with_suffix(".json").write_text(json.dumps(sidecar))
    return str(path)


def images(n: int) -> Any:
    return np.random.default_rng(1).normal(size=(n, 3, SIZE, SIZE)).astype(np.float32)


def outputs_of(path: Path, feed: Any, names: list[str] | None = None) -> list[Any]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(names, {session.get_inputs()[0].name: feed})


def expected(folder: Path) -> dict[str, Any]:
    """What the uncut classifier computes at the taps, for three images."""
    model = classifier()
    for name in ("relu1", "flat"):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    onnx.save(model, folder / "uncut.onnx")
    relu1, flat = outputs_of(folder / "uncut.onnx", images(3), ["relu1", "flat"])
    return {"stage1": relu1.mean((2, 3)), "features": flat}


def check_exports(name: str, folder: Path) -> None:
    """Whatever the file looked like, the export gives the plain classifier's activations for any batch."""
    check_activations(name, folder)
    check_backbone(PLUGIN.load(name))


def check_activations(name: str, folder: Path) -> None:
    PLUGIN.load(name).export(folder / "export.onnx")
    found = outputs_of(folder / "export.onnx", images(3), ["stage1", "features"])
    for array, wanted in zip(found, expected(folder).values(), strict=True):
        np.testing.assert_allclose(array, wanted, rtol=1e-4, atol=1e-5)


def test_a_classifier_is_cut_at_its_taps_and_its_tail_falls_away(tmp_path: Path) -> None:
    name = written(tmp_path, classifier())
    info = PLUGIN.load(name).info
    assert info.name == f"onnx:{name}"
    assert info.taps == (Tap("stage1", 8), Tap("features", 12))
    assert info.n_parameters == 8 * 3 * 9 + 12 * 8 * 9
    check_exports(name, tmp_path)


def test_weights_kept_beside_the_file_are_taken_in(tmp_path: Path) -> None:
    plain = PLUGIN.load(written(tmp_path, classifier(), name="plain.onnx")).info
    path = tmp_path / "small.onnx"
    onnx.save(classifier(), path, save_as_external_data=True, location="small.data", size_threshold=0)
    path.with_suffix(".json").write_text(json.dumps(SIDECAR))
    info = PLUGIN.load(str(path)).info
    assert info.weights_sha256 != plain.weights_sha256
    check_exports(str(path), tmp_path)
    data = bytearray((tmp_path / "small.data").read_bytes())
    data[0] ^= 1
    (tmp_path / "small.data").write_bytes(data)
    assert PLUGIN.load(str(path)).info.weights_sha256 != info.weights_sha256
    (tmp_path / "small.data").unlink()
    with pytest.raises(WeightsUnavailable, match=r"small\.data"):
        PLUGIN.load(str(path))


def test_weights_listed_as_inputs_are_no_inputs(tmp_path: Path) -> None:
    listed = [helper.make_tensor_value_info("w1", TensorProto.FLOAT, [8, 3, 3, 3])]
    check_exports(written(tmp_path, classifier(extra_inputs=listed, ir_version=3, opset=8)), tmp_path)


@pytest.mark.parametrize(
    "flatten",
    [
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Reshape", ["pooled", "fixed_shape"], ["flat"]),
    ],
    ids=["flatten", "reshape"],
)
def test_a_fixed_batch_dimension_is_made_free(flatten: Any, tmp_path: Path) -> None:
    check_exports(written(tmp_path, classifier(batch=1, flatten=flatten)), tmp_path)


def test_a_batch_that_cannot_be_freed_is_refused(tmp_path: Path) -> None:
    nodes = helper.make_node("ReduceMean", ["pooled"], ["flat"], axes=[0, 2, 3], keepdims=0)
    with pytest.raises(BackboneError, match="dynamic"):
        PLUGIN.load(
            written(tmp_path, classifier(batch=1, flatten=nodes), {**SIDECAR, "taps": {"features": "flat"}})
        )


def test_half_precision_files_come_out_as_float32(tmp_path: Path) -> None:
    model = classifier()
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
            )
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    name = written(tmp_path, model)
    backbone = PLUGIN.load(name)
    backbone.export(tmp_path / "export.onnx")
    for array in outputs_of(tmp_path / "export.onnx", images(2)):
        assert array.dtype == np.float32
    assert backbone.info.n_parameters == 8 * 3 * 9 + 12 * 8 * 9


def test_channels_last_and_tokens_are_pooled_over_the_right_axes(tmp_path: Path) -> None:
    model = classifier()
    graph = model.graph
    graph.node.insert(0, helper.make_node("Transpose", ["photo"], ["picture"], perm=[0, 3, 1, 2]))
    graph.input[0].CopyFrom(helper.make_tensor_value_info("photo", TensorProto.FLOAT, ["N", SIZE, SIZE, 3]))
    graph.initializer.append(numpy_helper.from_array(np.array([0, 8, 49], np.int64), "as_tokens"))
    graph.node.insert(3, helper.make_node("Transpose", ["relu1"], ["map_last"], perm=[0, 2, 3, 1]))
    graph.node.insert(4, helper.make_node("Reshape", ["relu1", "as_tokens"], ["tokens_last"]))
    graph.node.insert(5, helper.make_node("Transpose", ["tokens_last"], ["tokens"], perm=[0, 2, 1]))
    image = {**SIDECAR["image"], "layout": "NHWC"}
    taps = {"tokens": "tokens", "map": "map_last", "features": "flat"}
    backbone = PLUGIN.load(
        written(tmp_path, model, {**SIDECAR, "input": "photo", "image": image, "taps": taps})
    )
    assert [tap.width for tap in backbone.info.taps] == [8, 8, 12]
    check_backbone(backbone)
    backbone.export(tmp_path / "export.onnx")
    tokens, last, features = outputs_of(tmp_path / "export.onnx", images(3).transpose(0, 2, 3, 1))
    wanted = expected(tmp_path)
    np.testing.assert_allclose(tokens, wanted["stage1"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(last, wanted["stage1"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(features, wanted["features"], rtol=1e-4, atol=1e-5)


def test_tap_names_may_equal_other_tensors_of_the_file(tmp_path: Path) -> None:
    taps = {"conv2": "relu1", "features": "flat"}
    check_backbone(PLUGIN.load(written(tmp_path, classifier(), {**SIDECAR, "taps": taps})))


def test_tensors_used_only_inside_a_branch_are_kept(tmp_path: Path) -> None:
    model = classifier()
    value = helper.make_tensor_value_info("chosen", TensorProto.FLOAT, None)
    branches = {
        f"{word}_branch": helper.make_graph([helper.make_node(op, ["relu2"], ["chosen"])], word, [], [value])
        for word, op in (("then", "Identity"), ("else", "Neg"))
    }
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "always"))
    model.graph.node.insert(4, helper.make_node("If", ["always"], ["branched"], **branches))
    model.graph.node[5].input[0] = "branched"
    check_activations(written(tmp_path, model), tmp_path)


def test_the_choice_of_tensors_enters_the_build_version(tmp_path: Path) -> None:
    other = {**SIDECAR, "taps": {"stage1": "conv1", "features": "flat"}}
    first = PLUGIN.load(written(tmp_path, classifier(), name="a.onnx")).info
    second = PLUGIN.load(written(tmp_path, classifier(), other, name="b.onnx")).info
    assert first.weights_sha256 == second.weights_sha256
    assert first.taps == second.taps
    assert first.build_version != second.build_version


def test_without_a_sidecar_the_error_is_one_line_with_the_command_that_writes_it(tmp_path: Path) -> None:
    name = written(tmp_path, classifier(), sidecar=None)
    with pytest.raises(WeightsUnavailable) as caught:
        PLUGIN.load(name)
    assert str(caught.value) == (
        f"{name} needs a description beside it, small.json. "
        f"Write it with: tlserve backbones inspect {name} --write"
    )


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ({"taps": {"stage1": "relo1", "features": "flat"}}, "no tensor 'relo1'; near names: relu"),
        ({"taps": {"features": "flat", "stage1": "relu1"}}, "last of 'taps' must be named 'features'"),
        ({"taps": {}}, "last of 'taps'"),
        ({"taps": ["flat"]}, "field 'taps' must be an object"),
        ({"input": "image"}, "no input 'image'; its inputs: picture (float32 [N, 3, 16, 16])"),
        ({"input": 3}, "field 'input' must be a text"),
        ({"licence": ""}, "field 'licence'"),
        ({"colour": "red"}, "unknown field colour"),
        ({"image": {**SIDECAR["image"], "height": "16"}}, "'height' must be a positive whole number"),
        ({"image": {**SIDECAR["image"], "height": 32, "resize_short_side": 40}}, "height 32 and width 16"),
        ({"image": {**SIDECAR["image"], "mean": [1, 2]}}, "'mean' must be three numbers"),
        ({"image": {**SIDECAR["image"], "std": [1, 2, 0]}}, "std must not hold a zero"),
        ({"image": {**SIDECAR["image"], "layout": "CHW"}}, "'layout' must be one of NCHW, NHWC"),
        ({"image": {**SIDECAR["image"], "sharpness": 1}}, "unknown field sharpness"),
        ({"image": None}, "'image' must be an object"),
        ({"taps": {"features": "fixed_shape"}}, "no tensor 'fixed_shape'"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], advice: str, tmp_path: Path) -> None:
    with pytest.raises(BackboneError) as caught:
        PLUGIN.load(written(tmp_path, classifier(), {**SIDECAR, **change}))
    assert advice in str(caught.value)


def test_files_that_are_no_usable_model_are_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match=r"no ONNX file .*nowhere\.onnx"):
        PLUGIN.load(str(tmp_path / "nowhere.onnx"))
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(WeightsUnavailable, match=r"text\.onnx is not an ONNX file \(5 bytes\)$"):
        PLUGIN.load(str(tmp_path / "text.onnx"))
    whole = classifier().SerializeToString()
    (tmp_path / "part.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsUnavailable, match=r"not an ONNX file \(.* bytes\), or its end is missing"):
        PLUGIN.load(str(tmp_path / "part.onnx"))
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(WeightsUnavailable, match=r"\(0 bytes\): it holds no graph"):
        PLUGIN.load(str(tmp_path / "empty.onnx"))
    with pytest.raises(BackboneError, match="opset 6"):
        PLUGIN.load(written(tmp_path, classifier(opset=6), name="old.onnx"))
    (tmp_path / "small.json").write_text("{")
    with pytest.raises(WeightsUnavailable, match="as JSON"):
        PLUGIN.load(written(tmp_path, classifier(), sidecar=None))
    with pytest.raises(UnknownArchitecture, match="onnx:FILE"):
        PLUGIN.load("")


def test_a_tap_that_needs_another_input_is_refused(tmp_path: Path) -> None:
    model = classifier(extra_inputs=[helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["N", 12])])
    model.graph.node.insert(6, helper.make_node("Mul", ["flat", "mask"], ["masked"]))
    name = written(tmp_path, model, {**SIDECAR, "taps": {"features": "masked"}})
    with pytest.raises(BackboneError, match="also need the inputs mask"):
        PLUGIN.load(name)


def test_paths_may_hold_any_character_and_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my models: v1@2"
    folder.mkdir()
    written(folder, classifier(), name="né t.onnx")
    assert PLUGIN.load(str(folder / "né t.onnx")).info.taps[-1].width == 12
    monkeypatch.chdir(folder)
    assert PLUGIN.load("né t.onnx").info.name == "onnx:né t.onnx"
    monkeypatch.setenv("HOME", str(folder))
    assert PLUGIN.load("~/né t.onnx").info.taps[-1].width == 12


def test_the_mobilenet_beside_the_repository_keeps_every_promise(
    shared: Callable[[str], Path], tmp_path: Path
) -> None:
    path = shared("backbones/mobilenet_v2_imagenet.onnx")
    backbone = PLUGIN.load(str(path))
    assert [tap.width for tap in backbone.info.taps] == [24, 32, 96, 160, 1280]
    check_backbone(backbone)
    backbone.export(tmp_path / "export.onnx")
    feed = np.random.default_rng(0).uniform(-1, 1, (2, 3, 224, 224)).astype(np.float32)
    (plain,) = outputs_of(path, feed)
    (cut,) = outputs_of(tmp_path / "export.onnx", feed, ["features"])
    np.testing.assert_allclose(cut, plain, rtol=1e-4, atol=1e-5)
