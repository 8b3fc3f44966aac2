"""What the bundled backbone promises: its facts, its graph, and features good enough to learn on."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tlserve_nano import IMAGE, PLUGIN, WEIGHTS, NanoBackbone, NanoPlugin

from tlserve.plugin_api import LAST_TAP, Plugin, TrainableBackbone, UnknownArchitecture, WeightsUnavailable
from tlserve.testing import check_backbone

Floats = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def backbone() -> NanoBackbone:
    return PLUGIN.load("")


@pytest.fixture(scope="module")
def graph(backbone: NanoBackbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nano") / "nano.onnx"
    backbone.export(path)
    return path


@pytest.fixture(scope="module")
def session(graph: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def digits(backbone: NanoBackbone) -> tuple[Floats, npt.NDArray[np.int64]]:
    """scikit-learn's digits as 64x64 grey pictures, brought to the backbone's input by its image spec."""
    spec = backbone.info.image
    grey, labels = load_digits(return_X_y=True)
    cells = np.round(grey.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    pictures = [Image.fromarray(cell.repeat(8, axis=0).repeat(8, axis=1)).convert("RGB") for cell in cells]
    resized = [p.resize((spec.width, spec.height), Image.Resampling.BILINEAR) for p in pictures]
    pixels = np.stack([np.asarray(p, dtype=np.float32) for p in resized])
    mean, std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
    inputs = ((pixels - mean) / std).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(inputs), labels


def noise(n: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((n, 3, IMAGE.height, IMAGE.width)).astype(np.float32)


def test_it_is_a_plugin_with_one_trainable_backbone(backbone: NanoBackbone) -> None:
    assert isinstance(PLUGIN, Plugin)
    assert isinstance(backbone, TrainableBackbone)
    assert PLUGIN.names() == ("",)
    assert backbone.info.name == "nano"


def test_the_facts_are_those_of_the_weights_file(backbone: NanoBackbone) -> None:
    assert backbone.info.weights_sha256 == hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    module = backbone.torch_module().module
    assert backbone.info.n_parameters == sum(p.numel() for p in module.parameters())
    assert WEIGHTS.stat().st_size <= 4_000_000
    assert backbone.info == PLUGIN.load("").info


def test_listing_and_describing_import_no_torch() -> None:
    code = (
        "import sys; from tlserve_nano import PLUGIN; PLUGIN.names(); PLUGIN.load('').info; "
        "sys.exit('torch' in sys.modules)"
    )
    search_path = {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    subprocess.run([sys.executable, "-c", code], env=os.environ | search_path, check=True)


def test_an_unknown_name_is_refused_with_the_right_one() -> None:
    with pytest.raises(UnknownArchitecture, match="write 'nano'"):
        PLUGIN.load("large")


def test_missing_weights_are_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match=r"gone\.safetensors.*Reinstall.*train\.py"):
        NanoPlugin(tmp_path / "gone.safetensors").load("")


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x02\0\0\0\0\0\0\0[]"])
def test_an_unsound_weights_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsUnavailable, match="Reinstall"):
        NanoPlugin(path).load("")


def test_a_cut_weights_file_is_refused_before_a_graph_is_written(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(WEIGHTS.read_bytes()[:-100])
    with pytest.raises(WeightsUnavailable, match="Reinstall"):
        NanoPlugin(path).load("").export(tmp_path / "nano.onnx")
    assert not (tmp_path / "nano.onnx").exists()


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    state = load_file(WEIGHTS)
    state.pop("stem.0.0.weight")
    save_file(state, path)
    with pytest.raises(WeightsUnavailable, match="do not fit"):
        NanoPlugin(path).load("").torch_module()


def test_the_graph_stands_alone_and_bears_the_declared_taps(backbone: NanoBackbone, graph: Path) -> None:
    assert [path.name for path in graph.parent.iterdir()] == ["nano.onnx"]
    model = onnx.load(str(graph), load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert max(opset.version for opset in model.opset_import) >= 17
    assert not any(node.op_type in {"BatchNormalization", "Dropout"} for node in model.graph.node)
    assert [value.name for value in model.graph.input] == ["input"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert [value.name for value in model.graph.output] == [tap.name for tap in backbone.info.taps]
    assert backbone.info.taps[-1].name == LAST_TAP


def test_each_tap_is_as_wide_as_declared(
    backbone: NanoBackbone, session: onnxruntime.InferenceSession
) -> None:
    outputs = session.run([tap.name for tap in backbone.info.taps], {"input": noise(3)})
    assert [row.shape for row in outputs] == [(3, tap.width) for tap in backbone.info.taps]
    assert all(row.dtype == np.float32 and np.isfinite(row).all() for row in outputs)


def test_every_export_has_the_same_bytes_and_says_nothing(
    backbone: NanoBackbone,
    graph: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    backbone.export(tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == graph.read_bytes()
    assert tuple(capfd.readouterr()) == ("", "")
    assert not recwarn.list


def test_a_picture_has_the_same_features_alone_and_in_a_batch(session: onnxruntime.InferenceSession) -> None:
    inputs = noise(9)
    together = session.run(None, {"input": inputs})
    alone = [session.run(None, {"input": one[None]}) for one in inputs]
    for tap, rows in enumerate(together):
        np.testing.assert_allclose(rows, np.concatenate([one[tap] for one in alone]), atol=1e-5)


def test_torch_and_the_graph_agree(backbone: NanoBackbone, session: onnxruntime.InferenceSession) -> None:
    inputs = noise(4)
    with torch.inference_mode():
        wanted = backbone.torch_module().module(torch.from_numpy(inputs))
    assert list(wanted) == [tap.name for tap in backbone.info.taps]
    for name, rows in wanted.items():
        np.testing.assert_allclose(session.run([name], {"input": inputs})[0], rows.numpy(), atol=1e-4)


def test_the_blocks_hold_every_parameter_once_and_start_in_inference_mode(backbone: NanoBackbone) -> None:
    trainable = backbone.torch_module()
    in_blocks = [id(p) for block in trainable.blocks for p in block.parameters()]
    assert sorted(in_blocks) == sorted(id(p) for p in trainable.module.parameters())
    assert not any(part.training for part in trainable.module.modules())


def test_fine_tuning_one_module_leaves_the_backbone_as_it_was(backbone: NanoBackbone) -> None:
    touched = backbone.torch_module().module
    with torch.no_grad():
        for parameter in touched.parameters():
            parameter.zero_()
    assert any(bool(p.any()) for p in backbone.torch_module().module.parameters())


def test_a_linear_head_reads_digits(
    session: onnxruntime.InferenceSession, digits: tuple[Floats, npt.NDArray[np.int64]]
) -> None:
    inputs, labels = digits
    parts = [session.run(["features"], {"input": inputs[i : i + 64]})[0] for i in range(0, len(inputs), 64)]
    split = train_test_split(np.concatenate(parts), labels, test_size=0.2, stratify=labels, random_state=0)
    rows, rows_held, of_rows, of_held = split
    head = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(rows, of_rows)
    assert head.score(rows_held, of_held) >= 0.97


def test_it_keeps_the_plugin_contract(backbone: NanoBackbone) -> None:
    check_backbone(backbone)
