"""`tlserve backbones inspect FILE`: what it shows, writes and refuses, in a process's own words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.cli.conftest import run
from tlserve.plugin_host import PluginHost


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two stages, a pooling and a classifier of five, in a folder whose name has a blank."""
    draw = np.random.default_rng(0)
    shapes = {"w1": (8, 3, 3, 3), "w2": (12, 8, 3, 3), "wc": (12, 5)}
    held = [
        numpy_helper.from_array(draw.normal(size=shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["picture", "w1"], ["conv1"], strides=[2, 2]),
        helper.make_node("Relu", ["conv1"], ["relu1"]),
        helper.make_node("Conv", ["relu1", "w2"], ["conv2"], strides=[2, 2]),
        helper.make_node("Relu", ["conv2"], ["relu2"]),
        helper.make_node("GlobalAveragePool", ["relu2"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "wc"], ["logits"], name="[bold]head"),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["N", 3, 32, 32])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 5])],
        held,
    )
    path = tmp_path / "my models" / "small.onnx"
    path.parent.mkdir()
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="tests"), path)
    return path


def test_it_shows_the_file_the_candidates_and_a_description_to_save(model: Path) -> None:
    done = run("backbones", "inspect", model)
    assert done.exit_code == 0
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines() if line]
    facts = {line[0]: line[1] for line in lines[:10] if len(line) == 2}
    assert facts["format"] == "ONNX opset 17, IR 8, made by tests"
    assert facts["input"] == "picture: float32 [N, 3, 32, 32]"
    assert facts["classifier"] == "Gemm [bold]head, 12 to 5, then Softmax: it is cut off"
    assert facts["row"] == "20 numbers for each image: stage1 8, features 12"
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(("stage1 ", "features "))]
    assert [row[-1] for row in rows] == ["relu1", "flat"]
    assert '"features": "flat"' in done.stdout
    assert "--write" in done.stderr
    assert "guess" in done.stderr
    assert not model.with_suffix(".json").exists()


def test_what_it_writes_makes_the_file_a_backbone(model: Path) -> None:
    done = run("backbones", "inspect", model, "--write")
    assert done.exit_code == 0
    assert f"tlserve serve --backbone 'onnx:{model}'" in done.stderr
    beside = model.with_suffix(".json")
    beside.write_text(beside.read_text().replace("FILL IN", "As the tests have it"))
    assert [tap.width for tap in PluginHost().load(f"onnx:{model}").info.taps] == [8, 12]
    again = run("backbones", "inspect", model)
    assert again.exit_code == 0
    assert "small.json: good" in again.stdout
    assert "Use it: tlserve serve" in again.stderr


def test_an_unedited_description_is_not_called_good(model: Path) -> None:
    run("backbones", "inspect", model, "--write")
    again = run("backbones", "inspect", model)
    assert again.exit_code == 0
    assert "small.json: can be used once licence and weights_origin are filled in" in again.stdout
    assert "guess" in again.stderr
    assert f"Fill in licence and weights_origin in {model.with_suffix('.json')}" in again.stderr
    assert "Use it" not in again.stderr
    beside = model.with_suffix(".json")
    beside.write_text(beside.read_text().replace("FILL IN: the lic", "The lic"))
    once_more = run("backbones", "inspect", model)
    assert "small.json: can be used once weights_origin is filled in" in once_more.stdout


def test_it_writes_over_nothing_and_says_what_is_wrong_with_what_is_there(model: Path) -> None:
    run("backbones", "inspect", model, "--write")
    beside = model.with_suffix(".json")
    edited = beside.read_text().replace('"relu1"', '"relo1"')
    beside.write_text(edited)
    done = run("backbones", "inspect", model, "--write")
    assert done.exit_code == 1
    assert "no tensor 'relo1'; near names: relu" in done.stderr
    assert '"relu1"' in done.stdout
    assert beside.read_text() == edited


def test_json_holds_everything_and_nothing_else_is_said(model: Path) -> None:
    done = run("backbones", "inspect", model, "--json", "--write")
    facts = json.loads(done.stdout)
    assert done.stderr == ""
    assert (facts["opset"], facts["weights"], facts["problem"]) == (17, {"float32": 1140}, "")
    assert facts["inputs"] == [{"name": "picture", "type": "float32", "shape": ["N", 3, 32, 32]}]
    assert facts["taps"] == [{"name": "stage1", "width": 8}, {"name": "features", "width": 12}]
    assert facts["classifier"]["n_out"] == 5
    assert [one["shape"] for one in facts["candidates"] if one["tap"]] == [[1, 8, 15, 15], [1, 12]]
    assert facts["sidecar_written"] is True
    assert json.loads(model.with_suffix(".json").read_text()) == facts["sidecar"]


def test_a_file_that_cannot_be_a_backbone_is_described_and_refused(model: Path) -> None:
    broken = onnx.load(model)
    broken.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    onnx.save(broken, model)
    done = run("backbones", "inspect", model)
    assert done.exit_code == 1
    assert "picture: float32 [N, 1, 32, 32]" in done.stdout
    assert done.stderr.count("tlserve: ") == 1
    assert "3 channels" in done.stderr
    as_json = run("backbones", "inspect", model, "--json", "--write")
    assert as_json.exit_code == 1
    assert "3 channels" in json.loads(as_json.stdout)["problem"]
    assert not model.with_suffix(".json").exists()


@pytest.mark.parametrize("content", [b"", b"hello", bytes(range(256)) * 8])
def test_what_is_no_model_ends_with_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    done = run("backbones", "inspect", path)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"tlserve: {path} is not an ONNX file ({len(content):,} bytes)")
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_a_cut_off_file_is_no_model(model: Path) -> None:
    model.write_bytes(model.read_bytes()[:-500])
    done = run("backbones", "inspect", model)
    assert done.exit_code == 1
    assert "Traceback" not in done.stderr


def test_a_missing_file_or_a_folder_is_wrong_use(tmp_path: Path) -> None:
    assert run("backbones", "inspect", tmp_path / "nowhere.onnx").exit_code == 2
    assert run("backbones", "inspect", tmp_path).exit_code == 2
    assert run("backbones", "inspect").exit_code == 2
