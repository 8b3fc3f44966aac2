"""What `inspect` proposes for real networks: the classifier's own input, and the ends of the stages."""

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
from tlserve_onnx import PLUGIN, Inspection, inspect, write_sidecar

from tlserve.plugin_api import BackboneError
from tlserve.testing import check_backbone

NETWORKS = [
    ("resnet18", "torchscript", [64, 128, 256, 512]),
    pytest.param("resnet18", "dynamo", [64, 128, 256, 512], marks=pytest.mark.slow),
    pytest.param("mobilenet_v2", "torchscript", [24, 32, 96, 320, 1280], marks=pytest.mark.slow),
    ("mobilenet_v3_small", "torchscript", [16, 24, 48, 96, 1024]),
    pytest.param("mobilenet_v3_small", "dynamo", [16, 24, 48, 96, 1024], marks=pytest.mark.slow),
    pytest.param("efficientnet_b0", "torchscript", [24, 40, 112, 320, 1280], marks=pytest.mark.slow),
    ("shufflenet_v2_x0_5", "torchscript", [48, 96, 192, 1024]),
    pytest.param("densenet121", "torchscript", [256, 512, 1024, 1024], marks=pytest.mark.slow),
    ("squeezenet1_1", "torchscript", [128, 256, 384, 512]),
    ("vgg", "torchscript", [16, 20, 24, 40]),
    ("vit", "torchscript", [24, 24, 24, 24, 24]),
    ("vit", "dynamo", [24, 24, 24, 24, 24]),
    ("swin", "torchscript", [12, 24, 48, 96]),
    ("convnext", "torchscript", [12, 24, 36, 48]),
]


def exports_of(path: Path, folder: Path, feed: Any) -> dict[str, Any]:
    """The taps of the backbone in a file with a description, for prepared pictures."""
    PLUGIN.load(str(path)).export(folder / "export.onnx")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(str(folder / "export.onnx"), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"input": feed}), strict=True))


def describe(found: Inspection) -> None:
    """Save the proposed description, with what a person has to fill in."""
    write_sidecar(found)
    text = found.sidecar_path.read_text()
    found.sidecar_path.write_text(text.replace("FILL IN", "Of these tests"))


def copied(path: Path, folder: Path) -> Path:
    """A file of the session's in a folder of the test's own."""
    (folder / path.name).write_bytes(path.read_bytes())
    return folder / path.name


@pytest.mark.parametrize(("name", "exporter", "widths"), NETWORKS)
def test_features_are_what_goes_into_the_last_layer_and_taps_are_the_ends_of_the_stages(
    name: str, exporter: str, widths: list[int], exported: Callable[..., Any], tmp_path: Path
) -> None:
    network = exported(name, exporter)
    path = copied(network.path, tmp_path)
    found = inspect(path)
    assert found.problem == ""
    assert [tap.width for tap in found.taps] == widths
    assert found.classifier is not None
    assert found.classifier.operator == ("Conv" if name == "squeezenet1_1" else "Gemm")
    describe(found)
    outputs = exports_of(path, tmp_path, network.pictures)
    scale = np.abs(network.features).max()
    np.testing.assert_allclose(outputs["features"], network.features, rtol=1e-3, atol=1e-4 * scale)


def test_shapes_are_those_of_a_run_and_the_early_ones_are_listed_but_not_proposed(
    exported: Callable[..., Any],
) -> None:
    found = inspect(exported("resnet18").path)
    shapes = {one.tap: one.shape for one in found.candidates if one.tap}
    assert shapes == {
        "stage1": (1, 64, 16, 16),
        "stage2": (1, 128, 8, 8),
        "stage3": (1, 256, 4, 4),
        "features": (1, 512),
    }
    left_out = [one for one in found.candidates if one.tap is None]
    assert [one.shape for one in left_out] == [(1, 64, 16, 16), (1, 1000)]
    assert "too early" in left_out[0].reason


def test_maps_with_the_channels_last_inside_a_channels_first_network_are_said_to_be_so(
    exported: Callable[..., Any],
) -> None:
    found = inspect(exported("swin").path)
    assert found.sidecar is not None
    assert [
        source.get("layout") for tap, source in found.sidecar["taps"].items() if tap.startswith("stage")
    ] == ["NHWC"] * 3
    assert '{"tensor": ' in found.sidecar_text()


def test_the_mobilenet_beside_the_repository_is_features_already(
    shared: Callable[[str], Path], tmp_path: Path
) -> None:
    path = copied(shared("backbones/mobilenet_v2_imagenet.onnx"), tmp_path)
    found = inspect(path)
    assert found.classifier is None
    assert [tap.width for tap in found.taps] == [24, 32, 96, 320, 1280]
    assert found.candidates[-1].reason == "the graph's output"
    describe(found)
    check_backbone(PLUGIN.load(str(path)))


def keras_like(*, first: list[Any], constants: dict[str, Any], softmax: bool = True) -> Any:
    """As tf2onnx writes a Keras network: NHWC input, Transpose, Reshape for Flatten, MatMul and Add."""
    draw = np.random.default_rng(0)
    weights = {
        "w1": draw.normal(size=(8, 3, 3, 3)),
        "w2": draw.normal(size=(12, 8, 3, 3)),
        "w3": draw.normal(size=(16, 12, 3, 3)),
        "dense/kernel": draw.normal(size=(16, 5)),
        "dense/bias": draw.normal(size=5),
        **constants,
    }
    held = [numpy_helper.from_array(np.asarray(w, np.float32), name) for name, w in weights.items()]
    held.append(numpy_helper.from_array(np.array([-1, 16], np.int64), "flat_shape"))
    strides = {"strides": [2, 2], "pads": [1, 1, 1, 1]}
    nodes = [
        *first,
        helper.make_node("Transpose", ["normal"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["nchw", "w1"], ["c1"], **strides),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], **strides),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("Conv", ["r2", "w3"], ["c3"], **strides),
        helper.make_node("Relu", ["c3"], ["r3"]),
        helper.make_node("GlobalAveragePool", ["r3"], ["pooled"]),
        helper.make_node("Reshape", ["pooled", "flat_shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "dense/kernel"], ["product"]),
        helper.make_node("Add", ["product", "dense/bias"], ["logits"]),
        helper.make_node("Softmax" if softmax else "Identity", ["logits"], ["classes"]),
    ]
    graph = helper.make_graph(
        nodes,
        "keras",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 32, 32, 3])],
        [helper.make_tensor_value_info("classes", TensorProto.FLOAT, ["N", 5])],
        held,
    )
    opsets = [helper.make_opsetid("", 13)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="tf2onnx")


def test_a_channels_last_graph_with_channels_first_inside_is_proposed_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "keras.onnx"
    onnx.save(keras_like(first=[helper.make_node("Identity", ["image"], ["normal"])], constants={}), path)
    found = inspect(path)
    assert found.sidecar is not None
    assert found.sidecar["image"]["layout"] == "NHWC"
    assert found.sidecar["taps"]["stage1"] == {"tensor": "r1", "layout": "NCHW"}
    assert found.sidecar["taps"]["features"] == "flat"
    assert found.classifier is not None
    assert (found.classifier.operator, found.classifier.activation) == ("MatMul", "Softmax")
    assert any("Keras" in warning for warning in found.warnings)
    describe(found)
    backbone = PLUGIN.load(str(path))
    assert [tap.width for tap in backbone.info.taps] == [8, 12, 16]
    check_backbone(backbone)


@pytest.mark.parametrize(
    ("steps", "constants", "mean", "std"),
    [
        (["Div a", "Sub b"], {"a": 127.5, "b": 1.0}, 0, 1),
        (["Mul a", "Add b"], {"a": 1 / 255, "b": 0.0}, 0, 1),
        (["Sub a"], {"a": [103.9, 116.8, 123.7]}, 0, 1),
        (["Sub a", "Div b"], {"a": [0.485, 0.456, 0.406], "b": [0.229, 0.224, 0.225]}, 0, 255),
        (["Mul a", "Sub b"], {"a": 2.0, "b": 1.0}, 0, 255),
    ],
)
def test_a_graph_that_normalises_by_itself_gets_pixels_as_it_expects_them(
    steps: list[str], constants: dict[str, Any], mean: int, std: int, tmp_path: Path
) -> None:
    nodes, current = [], "image"
    for number, step in enumerate(steps, start=1):
        operator, constant = step.split()
        made = "normal" if number == len(steps) else f"step{number}"
        nodes.append(helper.make_node(operator, [current, constant], [made]))
        current = made
    path = tmp_path / "keras.onnx"
    onnx.save(keras_like(first=nodes, constants=constants), path)
    found = inspect(path)
    assert found.sidecar is not None
    assert found.sidecar["image"]["mean"] == [mean] * 3
    assert found.sidecar["image"]["std"] == [std] * 3
    assert any("normalises by itself" in warning for warning in found.warnings)


def test_a_description_that_normalises_a_second_time_is_doubted(tmp_path: Path) -> None:
    path = tmp_path / "keras.onnx"
    first = [helper.make_node("Div", ["image", "a"], ["normal"])]
    onnx.save(keras_like(first=first, constants={"a": 127.5}), path)
    describe(inspect(path))
    beside = path.with_suffix(".json")
    beside.write_text(beside.read_text().replace("[1, 1, 1]", "[127.5, 127.5, 127.5]"))
    found = inspect(path)
    assert found.problem == ""
    assert any("should be [0, 0, 0] and [1, 1, 1]" in warning for warning in found.warnings)


def test_where_the_graph_does_not_tell_mean_and_std_are_called_a_guess(exported: Callable[..., Any]) -> None:
    found = inspect(exported("resnet18").path)
    assert found.sidecar is not None
    assert found.sidecar["image"]["mean"] == [123.675, 116.28, 103.53]
    assert any("guess" in warning for warning in found.warnings)


def test_a_classifier_quantised_dynamically_is_cut_off_with_its_scales(tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    plain, path = tmp_path / "plain.onnx", tmp_path / "dynamic.onnx"
    onnx.save(keras_like(first=[helper.make_node("Identity", ["image"], ["normal"])], constants={}), plain)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_dynamic(plain, path, op_types_to_quantize=["MatMul"])
    found = inspect(path)
    assert found.classifier is not None
    assert found.classifier.operator == "MatMulInteger"
    assert found.sidecar is not None
    assert found.sidecar["taps"]["features"] == "flat"
    describe(found)
    check_backbone(PLUGIN.load(str(path)))


def two_towers(*, joined: bool) -> Any:
    """A picture and a text tower, as CLIP has them; `joined` gives their product as the only output."""
    draw = np.random.default_rng(0)
    weights = {
        "w": draw.normal(size=(8, 3, 4, 4)),
        "p": draw.normal(size=(8, 70)),
        "table": draw.normal(size=(50, 70)),
    }
    nodes = [
        helper.make_node("Conv", ["pixel_values", "w"], ["patches"], strides=[4, 4]),
        helper.make_node("Relu", ["patches"], ["active"]),
        helper.make_node("GlobalAveragePool", ["active"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "p"], ["image_embeds"]),
        helper.make_node("Gather", ["table", "input_ids"], ["words"]),
        helper.make_node("ReduceMean", ["words"], ["text_embeds"], axes=[1], keepdims=0),
        helper.make_node("Mul", ["image_embeds", "text_embeds"], ["similarity"]),
    ]
    outputs = ["similarity"] if joined else ["similarity", "text_embeds", "image_embeds"]
    graph = helper.make_graph(
        nodes,
        "towers",
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["N", "T"]),
            helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["N", 3, 32, 32]),
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 70]) for name in outputs],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.mark.parametrize("joined", [False, True])
def test_of_two_towers_the_one_that_sees_the_picture_is_taken(joined: bool, tmp_path: Path) -> None:
    path = tmp_path / "clip.onnx"
    onnx.save(two_towers(joined=joined), path)
    found = inspect(path)
    assert found.problem == ""
    assert found.sidecar is not None
    assert found.sidecar["input"] == "pixel_values"
    assert found.sidecar["taps"]["features"] == "image_embeds"
    assert any("input_ids" in warning for warning in found.warnings)


def test_a_model_without_a_picture_is_refused_with_the_names_of_its_inputs(tmp_path: Path) -> None:
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["N", 7])
    mask = helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["N", 7])
    made = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 7])
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "mask"], ["out"]),
    ]
    graph = helper.make_graph(nodes, "text", [ids, mask], [made])
    onnx.save(helper.make_model(graph, ir_version=8), tmp_path / "text.onnx")
    found = inspect(tmp_path / "text.onnx")
    assert found.sidecar is None
    assert "input_ids (int64 [N, 7]), mask (float32 [N, 7])" in found.problem


def tokens_out(n_tokens: int) -> Any:
    """A transformer's last tokens as the only output, after a class token or without one."""
    draw = np.random.default_rng(0)
    weights = {
        "w": draw.normal(size=(12, 3, 8, 8)),
        "m": draw.normal(size=(12, 12)),
        "cls": np.ones((1, 1, 12)),
    }
    held = [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()]
    held.append(numpy_helper.from_array(np.array([0, 12, 16], np.int64), "flat"))
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["patches"], strides=[8, 8]),
        helper.make_node("Reshape", ["patches", "flat"], ["columns"]),
        helper.make_node("Transpose", ["columns"], ["rows"], perm=[0, 2, 1]),
    ]
    current = "rows"
    if n_tokens == 17:
        nodes += [
            helper.make_node("ReduceMean", ["rows"], ["one"], axes=[1], keepdims=1),
            helper.make_node("Mul", ["one", "cls"], ["token"]),
            helper.make_node("Concat", ["token", "rows"], ["with_class"], axis=1),
        ]
        current = "with_class"
    nodes += [
        helper.make_node("MatMul", [current, "m"], ["mixed"]),
        helper.make_node("Add", [current, "mixed"], ["last_hidden_state"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tokens",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 32, 32])],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["N", n_tokens, 12])],
        held,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.mark.parametrize(("n_tokens", "tokens"), [(17, "first"), (16, "mean")])
def test_of_tokens_the_class_token_is_taken_where_there_is_one(
    n_tokens: int, tokens: str, tmp_path: Path
) -> None:
    path = tmp_path / "tokens.onnx"
    onnx.save(tokens_out(n_tokens), path)
    describe(inspect(path))
    feed = np.random.default_rng(1).normal(size=(3, 3, 32, 32)).astype(np.float32)
    plain = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"input": feed})[0]
    features = exports_of(path, tmp_path, feed)["features"]
    wanted = plain[:, 0] if tokens == "first" else plain.mean(1)
    np.testing.assert_allclose(features, wanted, rtol=1e-4, atol=1e-5)
    check_backbone(PLUGIN.load(str(path)))


def test_a_free_size_is_found_by_running(exported: Callable[..., Any], tmp_path: Path) -> None:
    model = onnx.load(exported("vit").path)
    for axis, name in ((2, "H"), (3, "W")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    onnx.save(model, tmp_path / "vit.onnx")
    found = inspect(tmp_path / "vit.onnx")
    assert found.sidecar is not None
    assert (found.sidecar["image"]["height"], found.sidecar["image"]["width"]) == (32, 32)
    assert any("size is free" in warning for warning in found.warnings)


def test_a_described_file_is_judged_by_its_own_description(
    exported: Callable[..., Any], tmp_path: Path
) -> None:
    path = copied(exported("resnet18").path, tmp_path)
    describe(inspect(path))
    beside = tmp_path / "resnet18.json"
    assert inspect(path).problem == ""
    beside.write_text(beside.read_text().replace("/layer1/", "/layer9/", 1))
    found = inspect(path)
    assert "the graph has no tensor '/layer9/" in found.problem
    assert found.sidecar is not None
    assert "/layer1/" in found.sidecar_text()


def test_an_unedited_description_is_refused_by_the_fields_to_fill_in(
    exported: Callable[..., Any], tmp_path: Path
) -> None:
    path = copied(exported("resnet18").path, tmp_path)
    write_sidecar(inspect(path))
    beside = tmp_path / "resnet18.json"
    assert inspect(path).to_fill_in == ("licence", "weights_origin")
    with pytest.raises(BackboneError) as caught:
        PLUGIN.load(str(path))
    assert f"{beside}: fill in licence and weights_origin" in str(caught.value)
    facts = json.loads(beside.read_text())
    beside.write_text(json.dumps({**facts, "licence": "MIT"}))
    found = inspect(path)
    assert (found.problem, found.to_fill_in) == ("", ("weights_origin",))
    with pytest.raises(BackboneError, match="fill in weights_origin,"):
        PLUGIN.load(str(path))
    beside.write_text(json.dumps({**facts, "licence": "MIT", "weights_origin": "where I FILL IN forms"}))
    assert inspect(path).to_fill_in == ()
    assert PLUGIN.load(str(path)).info.licence == "MIT"


def test_mean_and_std_are_called_a_guess_for_as_long_as_they_are_the_proposed_ones(
    exported: Callable[..., Any], tmp_path: Path
) -> None:
    path = copied(exported("resnet18").path, tmp_path)
    describe(inspect(path))
    assert any("mean and std are a guess" in warning for warning in inspect(path).warnings)
    beside = tmp_path / "resnet18.json"
    beside.write_text(beside.read_text().replace("[123.675,", "[120,"))
    assert not any("mean and std" in warning for warning in inspect(path).warnings)
