"""torchvision's classifiers as backbones: weights from anywhere, taps at the stages, ready to fine-tune."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import shutil
from pathlib import Path
from urllib.error import URLError

import numpy as np
import onnxruntime as ort
import pytest
import torch
from safetensors.torch import save_file
from tlserve_torchvision import PLUGIN, TorchvisionBackbone, TorchvisionPlugin
from tlserve_torchvision.network import build, load_weights, widths
from tlserve_torchvision.weights import member_of_digest
from torchvision import models

from tlserve.plugin_api import BackboneError, TrainableModule, UnknownArchitecture, WeightsUnavailable
from tlserve.testing import check_backbone

SMALL = "squeezenet1_1"
SHARED = Path(__file__).resolve().parents[4] / "shared" / "backbones"


def state_of(architecture: str, **options: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return dict(models.get_model(architecture, weights=None, **options).state_dict())


def features_of(trainable: TrainableModule, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        features = trainable.module.eval()(images)["features"]
    assert isinstance(features, torch.Tensor)
    return features


def test_a_small_network_keeps_every_promise() -> None:
    check_backbone(PLUGIN.load(f"{SMALL}@random"))


def test_an_export_that_cannot_be_written_leaves_the_backbone_usable(tmp_path: Path) -> None:
    backbone = PLUGIN.load(f"{SMALL}@random")
    with pytest.raises(OSError, match="no folder"):
        backbone.export(tmp_path / "no folder" / "x.onnx")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        backbone.export(tmp_path / "folder")
    backbone.export(tmp_path / "x.onnx")
    assert (tmp_path / "x.onnx").stat().st_size > 2_000_000


def test_random_weights_are_the_same_each_time_and_come_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        first = PLUGIN.load(f"{SMALL}@random").info
    assert "random weights" in caplog.text
    assert first == PLUGIN.load(f"{SMALL}@random").info
    assert "mean nothing" in first.weights_origin


def test_drawing_random_weights_leaves_torchs_own_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    PLUGIN.load(f"{SMALL}@random")
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_a_file_gives_the_features_that_torchvision_gives(ending: str, tmp_path: Path) -> None:
    state = state_of(SMALL)
    path = tmp_path / f"weights{ending}"
    if ending == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    backbone = PLUGIN.load(f"{SMALL}@{path}")
    assert backbone.info.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    plain = models.get_model(SMALL, weights=None).eval()
    plain.load_state_dict(state)
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        wanted = plain.features(images).mean((2, 3))
    torch.testing.assert_close(features_of(backbone.torch_module(), images), wanted)


def test_a_file_of_torchvision_is_known_wherever_it_lies() -> None:
    offered = models.get_model_weights("resnet50")
    found = member_of_digest(offered, "0676ba61" + "0" * 56)
    assert found is models.ResNet50_Weights.IMAGENET1K_V1
    assert member_of_digest(offered, "0" * 64) is None


def test_weights_that_hold_convolutions_only_end_at_the_last_pooling() -> None:
    network = build("vgg11", 64, initialise=False, convolutions_only=True)
    no_numbers = torch.full((2, 2), float("nan"))
    load_weights(network, {**network.network.state_dict(), "classifier.0.weight": no_numbers}, "a file")
    assert widths(network, 64, 64) == {
        "stage1": 64,
        "stage2": 128,
        "stage3": 256,
        "stage4": 512,
        "features": 512,
    }
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        pooled = network.network.features(images).mean((2, 3))
        torch.testing.assert_close(network(images)["features"], pooled)


def test_a_file_with_another_number_of_classes_fits(tmp_path: Path) -> None:
    for architecture in ("resnet18", "mobilenet_v3_small", "mnasnet0_5"):
        path = tmp_path / f"{architecture}.safetensors"
        save_file(state_of(architecture, num_classes=7), path)
        assert PLUGIN.load(f"{architecture}@{path}").info.n_parameters > 0


def test_side_outputs_of_a_file_are_left_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = models.get_model("googlenet", weights=None, aux_logits=True, init_weights=False)
    torch.save(network.state_dict(), tmp_path / "g.pth")
    assert PLUGIN.load(f"googlenet@{tmp_path / 'g.pth'}").info.taps[-1].width == 1024


def test_the_usual_wrappings_of_a_checkpoint_are_taken_off(tmp_path: Path) -> None:
    state = state_of(SMALL)
    torch.save(
        {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "w.pth"
    )
    torch.save(state, tmp_path / "plain.pth")
    images = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(
        features_of(PLUGIN.load(f"{SMALL}@{tmp_path / 'w.pth'}").torch_module(), images),
        features_of(PLUGIN.load(f"{SMALL}@{tmp_path / 'plain.pth'}").torch_module(), images),
    )


def test_a_sidecar_beside_the_file_changes_the_image_spec(tmp_path: Path) -> None:
    path = tmp_path / "mine.v1.safetensors"
    save_file(state_of(SMALL), path)
    plain = PLUGIN.load(f"{SMALL}@{path}").info.image
    assert plain.mean == (123.675, 116.28, 103.53)
    facts = {"licence": "CC0-1.0", "image": {"mean": [127.5] * 3, "std": [127.5] * 3}}
    (tmp_path / "mine.v1.json").write_text(json.dumps(facts))
    info = PLUGIN.load(f"{SMALL}@{path}").info
    assert (info.image.mean, info.image.std) == ((127.5,) * 3, (127.5,) * 3)
    assert (info.image.resize_short_side, info.licence) == (plain.resize_short_side, "CC0-1.0")
    for wrong in ({"image": {"colour": 1}}, {"image": {"std": [0, 1, 1]}}, {"image": 3}, [1]):
        (tmp_path / "mine.v1.json").write_text(json.dumps(wrong))
        with pytest.raises(WeightsUnavailable, match=r"mine\.v1\.json"):
            PLUGIN.load(f"{SMALL}@{path}")


def test_files_that_do_not_fit_are_refused_with_the_reason(tmp_path: Path) -> None:
    def refused(choice: object, reason: str) -> None:
        with pytest.raises(WeightsUnavailable, match=reason):
            PLUGIN.load(f"{SMALL}@{choice}")

    refused(tmp_path / "nowhere.pth", "no weights file")
    (tmp_path / "text.pth").write_text("hello")
    refused(tmp_path / "text.pth", "as weights")
    (tmp_path / "text.safetensors").write_text("hello")
    refused(tmp_path / "text.safetensors", "as weights")
    torch.save(models.get_model(SMALL, weights=None), tmp_path / "whole.pth")
    refused(tmp_path / "whole.pth", "could run code")
    torch.save([1, 2], tmp_path / "list.pth")
    refused(tmp_path / "list.pth", "no state_dict")
    torch.save(state_of("squeezenet1_0"), tmp_path / "other.pth")
    refused(tmp_path / "other.pth", "another architecture")
    torch.save({}, tmp_path / "nothing.pth")
    refused(tmp_path / "nothing.pth", "tensors missing")
    refused(
        "IMAGENET9", r"write @ and one of IMAGENET1K_V1, or a file ending in \.safetensors, .* or random$"
    )


def test_unknown_weights_are_answered_with_all_there_are() -> None:
    with pytest.raises(WeightsUnavailable) as caught:
        PLUGIN.load("vit_b_16@IMAGENET1K_V2")
    for known in ("IMAGENET1K_V1", "IMAGENET1K_SWAG_E2E_V1", "IMAGENET1K_SWAG_LINEAR_V1"):
        assert known in str(caught.value)


def test_an_unknown_architecture_is_answered_with_near_names() -> None:
    with pytest.raises(UnknownArchitecture, match="resnet50"):
        PLUGIN.load("resnet5O")
    with pytest.raises(UnknownArchitecture, match=r"near or common.*--only 'torchvision/\*' --all"):
        PLUGIN.load("zebra")
    with pytest.raises(UnknownArchitecture, match="write torchvision/ARCH, for example torchvision/resnet50"):
        PLUGIN.load("")


def test_a_failed_download_says_how_to_go_on_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(address: str, path: Path, sha256_beginning: str) -> None:
        raise URLError("no network")

    with pytest.raises(WeightsUnavailable) as caught:
        TorchvisionPlugin(offline).load(SMALL)
    assert f"torchvision/{SMALL}@FILE" in str(caught.value)
    assert str(tmp_path / "hub" / "checkpoints") in str(caught.value)


def test_a_download_of_other_bytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    asked = []

    def wrong(address: str, path: Path, sha256_beginning: str) -> None:
        asked.append((address, sha256_beginning))
        path.parent.mkdir(parents=True)
        torch.save(state_of(SMALL), path)

    with pytest.raises(WeightsUnavailable, match="is damaged: its sha256 should begin with b8a52dc0"):
        TorchvisionPlugin(wrong).load(f"{SMALL}@IMAGENET1K_V1")
    assert asked == [("https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth", "b8a52dc0")]


def test_fine_tuning_and_copying_the_module_leave_the_backbone_as_it_was() -> None:
    backbone = PLUGIN.load(f"{SMALL}@random")
    images = torch.randn(1, 3, 224, 224)
    before = features_of(backbone.torch_module(), images)
    trainable = backbone.torch_module()
    twin = copy.deepcopy(trainable.module)
    outputs = trainable.module.train()(images)
    sum(tap.mean() for tap in outputs.values()).backward()
    assert all(parameter.grad is not None for parameter in trainable.module.parameters())
    with torch.no_grad():
        for parameter in trainable.module.parameters():
            parameter.add_(1.0)
    torch.testing.assert_close(features_of(backbone.torch_module(), images), before)
    torch.testing.assert_close(twin.eval()(images)["features"], before)


def test_networks_too_large_for_one_onnx_file_are_refused(tmp_path: Path) -> None:
    from tlserve_torchvision.network import TappedNetwork, write_onnx

    with torch.device("meta"):
        huge = torch.nn.Linear(30_000, 20_000)
    with pytest.raises(BackboneError, match=r"2\.4 GB"):
        write_onnx(TappedNetwork(huge, (), "maps"), tmp_path / "x.onnx", 8, 8)


def shared_mobilenet(tmp_path: Path) -> TorchvisionBackbone:
    source = SHARED / "mobilenet_v2_imagenet.torchvision.safetensors"
    if not source.exists():
        pytest.skip("needs ../shared/backbones")
    path = tmp_path / source.name
    shutil.copy(source, path)
    path.with_suffix(".json").write_text(json.dumps({"image": {"mean": [127.5] * 3, "std": [127.5] * 3}}))
    return PLUGIN.load(f"mobilenet_v2@{path}")


def test_the_mobilenet_beside_the_repository_exports_what_torch_computes(tmp_path: Path) -> None:
    backbone = shared_mobilenet(tmp_path)
    assert backbone.info.image.mean == (127.5, 127.5, 127.5)
    backbone.export(tmp_path / "export.onnx")
    images = np.random.default_rng(0).uniform(-1, 1, (3, 3, 224, 224)).astype(np.float32)
    session = ort.InferenceSession(str(tmp_path / "export.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(["features"], {"input": images})
    wanted = features_of(backbone.torch_module(), torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4 * float(np.abs(wanted).max()))
