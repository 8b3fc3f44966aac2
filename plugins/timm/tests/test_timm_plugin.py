"""timm's networks as backbones: names, pictures, weights from anywhere, taps at the stages, fine-tuning."""

from __future__ import annotations

import copy
import hashlib
import importlib.metadata
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

import pytest

pytest.importorskip("timm", reason="timm is not installed; `make test-timm` runs these tests")
pytest.importorskip("tlserve_timm", reason="tlserve-timm is not installed; `make test-timm` runs these tests")

import timm
import torch
from safetensors.torch import save_file
from tlserve_timm import PLUGIN, TimmBackbone
from tlserve_timm.declared import image_of
from tlserve_timm.network import stage_places

from tlserve.plugin_api import (
    ENTRY_POINT_GROUP,
    BackboneError,
    DescribingPlugin,
    TrainableModule,
    UnknownArchitecture,
    WeightsUnavailable,
)
from tlserve.testing import check_backbone


class Hub(Protocol):
    """A hub of models on this machine, from conftest.py."""

    @property
    def folder(self) -> Path: ...
    @property
    def address(self) -> str: ...


CNN, VIT = "test_resnet", "test_vit"
"""Networks of a few hundred thousand parameters that timm keeps for its own tests."""

WIDTHS = {
    "test_resnet": [32, 48, 192, 96],
    "test_vit": [64, 64, 64, 64, 64],
    "test_convnext": [24, 32, 48, 64, 64],
    "mobilenetv3_small_050": [8, 16, 24, 288, 1024],
    "resnet10t": [64, 128, 256, 512],
    "pit_ti_distilled_224": [64, 128, 256, 256],
}
OFFLINE = {"HF_HUB_OFFLINE": "1"}
PRINT_INFO = """
import sys
from tlserve_timm import PLUGIN
info = PLUGIN.load(sys.argv[1]).info
print(info.weights_sha256, info.licence, info.taps[-1].width, info.weights_origin, sep="|")
"""


def state_of(architecture: str, **options: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return dict(timm.create_model(architecture, **options).state_dict())


def features_of(trainable: TrainableModule, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        features = trainable.module.eval()(images)["features"]
    assert isinstance(features, torch.Tensor)
    return features


def loaded_elsewhere(rest: str, home: Path, **environment: str) -> list[str]:
    """weights_sha256, licence, width of the features and origin, as another process has them."""
    done = subprocess.run(
        [sys.executable, "-c", PRINT_INFO, rest],
        env={**os.environ, "HF_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().split("|")


# Names.


def test_every_architecture_of_the_installed_timm_is_listed() -> None:
    assert set(timm.list_models()) < set(PLUGIN.names())


def test_finding_the_plugin_imports_neither_timm_nor_torch() -> None:
    code = "import sys, tlserve_timm; sys.exit(bool({'timm', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_distribution_offers_the_prefix_timm() -> None:
    (point,) = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP, name="timm")
    assert point.load() is PLUGIN
    assert point.dist is not None
    assert point.dist.name == "tlserve-timm"


def test_an_unknown_architecture_is_answered_with_near_names() -> None:
    with pytest.raises(UnknownArchitecture, match="resnet50"):
        PLUGIN.load("resnet5O")
    with pytest.raises(UnknownArchitecture, match=r"near or common.*--only 'timm/\*' --all"):
        PLUGIN.load("zebra")
    with pytest.raises(UnknownArchitecture, match="write timm/ARCH, for example timm/resnet50"):
        PLUGIN.load("")
    with pytest.raises(UnknownArchitecture, match="hf-hub:ORG/NAME"):
        PLUGIN.load("timm/resnet50")


def test_an_unknown_tag_is_answered_with_those_there_are() -> None:
    with pytest.raises(UnknownArchitecture, match=r"resnet50\.a1_in1k"):
        PLUGIN.load("resnet50.IMAGENET1K_V1")
    with pytest.raises(UnknownArchitecture, match=r"resnet50\.a1_in1k"):
        PLUGIN.load("resnet50.nonsense@random")


def test_a_tag_after_the_wrong_sign_is_put_right() -> None:
    with pytest.raises(WeightsUnavailable, match=r"timm/resnet50\.TAG"):
        PLUGIN.load("resnet50@a1_in1k")


# Facts, which agree with what is loaded.


@pytest.mark.parametrize("name", [CNN, "resnet50.a1_in1k", "vit_small_patch14_dinov2.lvd142m"])
def test_what_is_known_without_loading_agrees_with_what_is_loaded(name: str) -> None:
    assert isinstance(PLUGIN, DescribingPlugin)
    facts = PLUGIN.facts(name)
    assert facts is not None
    assert facts.licence == "Apache-2.0"
    if name == CNN:
        image = PLUGIN.load(f"{name}@random").info.image
        assert (facts.height, facts.width) == (image.height, image.width)


def test_every_listed_name_has_facts_or_none() -> None:
    for name in PLUGIN.names():
        facts = PLUGIN.facts(name)
        assert facts is None or (facts.height is not None and facts.height >= 32)


# Pictures.


def fields(**others: Any) -> dict[str, Any]:
    plain = {
        "input_size": (3, 224, 224),
        "crop_pct": 0.875,
        "crop_mode": "center",
        "interpolation": "bicubic",
        "mean": (0.5, 0.485, 0.25),
        "std": (0.2, 0.229, 1.0),
    }
    return {**plain, **others}


def test_pictures_are_prepared_as_timm_says_in_pixel_units() -> None:
    image = image_of(fields(), "x")
    assert (image.height, image.width, image.resize_short_side, image.crop) == (224, 224, 256, "center")
    assert (image.mean, image.std, image.interpolation) == (
        (127.5, 123.675, 63.75),
        (51.0, 58.395, 255.0),
        "bicubic",
    )


def test_modes_that_lose_nothing_of_a_picture_become_a_resize_without_crop() -> None:
    for mode in ("squash", "border"):
        image = image_of(fields(crop_mode=mode, crop_pct=0.95), "x")
        assert (image.crop, image.resize_short_side) == ("none", None)


def test_a_crop_larger_than_the_picture_takes_the_whole_short_side() -> None:
    assert image_of(fields(crop_pct=1.15), "x").resize_short_side == 224


def test_inputs_that_are_not_square_keep_their_sides() -> None:
    image = image_of(fields(input_size=(3, 1024, 768), crop_pct=1.0), "x")
    assert (image.height, image.width, image.resize_short_side) == (1024, 768, 1024)


def test_networks_for_other_than_three_channels_are_refused() -> None:
    with pytest.raises(BackboneError, match="1 channels"):
        image_of(fields(input_size=(1, 64, 64)), "x")


# Taps and blocks.


def test_taps_stand_at_the_ends_of_the_last_four_resolutions_or_at_even_depths() -> None:
    assert stage_places([2, 4, 8, 16, 32]) == (1, 2, 3, 4)
    assert stage_places([4, 8, 8, 16]) == (0, 2, 3)
    assert stage_places([16] * 12) == (2, 5, 8, 11)
    assert stage_places([16] * 3) == (0, 1, 2)
    assert stage_places([]) == ()


@pytest.mark.parametrize("architecture", WIDTHS)
def test_taps_have_the_widths_of_the_stages_and_blocks_cover_the_network(architecture: str) -> None:
    backbone = PLUGIN.load(f"{architecture}@random")
    assert [tap.width for tap in backbone.info.taps] == WIDTHS[architecture]
    check_backbone(backbone, checks=["info_is_sound", "last_tap_is_features", "blocks_cover_parameters"])
    assert len(backbone.torch_module().blocks) > 3


@pytest.mark.parametrize(
    ("architecture", "n_blocks"),
    [("efficientvim_m1", 5), ("poolformerv2_s12", 6)],
    ids=["groups listed in another order than that of use", "no groups"],
)
def test_blocks_stand_in_the_order_of_use(architecture: str, n_blocks: int) -> None:
    backbone = PLUGIN.load(f"{architecture}@random")
    check_backbone(backbone, checks=["blocks_cover_parameters", "blocks_run_deeper"])
    assert len(backbone.torch_module().blocks) == n_blocks


def test_features_are_what_timm_gives_without_its_classifier() -> None:
    for architecture in (CNN, VIT, "mobilenetv3_small_050"):
        backbone = PLUGIN.load(f"{architecture}@random")
        images = torch.randn(2, 3, backbone.info.image.height, backbone.info.image.width)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            plain = timm.create_model(architecture).eval()
        plain.reset_classifier(0)
        with torch.no_grad():
            torch.testing.assert_close(features_of(backbone.torch_module(), images), plain(images))


@pytest.mark.parametrize("architecture", [CNN, VIT])
def test_a_small_network_keeps_every_promise(architecture: str) -> None:
    check_backbone(PLUGIN.load(f"{architecture}@random"))


def test_two_exports_are_the_same_bytes_and_name_no_place_of_this_machine(tmp_path: Path) -> None:
    backbone = PLUGIN.load(f"{CNN}@random")
    for name in ("one", "other"):
        backbone.export(tmp_path / name)
    written = (tmp_path / "one").read_bytes()
    assert written == (tmp_path / "other").read_bytes()
    assert b".py" not in written


def test_an_export_that_cannot_be_written_leaves_the_backbone_usable(tmp_path: Path) -> None:
    backbone = PLUGIN.load(f"{CNN}@random")
    with pytest.raises(OSError, match="no folder"):
        backbone.export(tmp_path / "no folder" / "x.onnx")
    backbone.export(tmp_path / "x.onnx")
    assert (tmp_path / "x.onnx").stat().st_size > 1_000_000


def test_fine_tuning_and_copying_the_module_leave_the_backbone_as_it_was() -> None:
    backbone = PLUGIN.load(f"{CNN}@random")
    images = torch.randn(2, 3, 160, 160)
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


# Random weights.


def test_random_weights_are_the_same_in_every_process_and_come_with_a_warning(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with caplog.at_level(logging.WARNING):
        info = PLUGIN.load(f"{CNN}@random").info
    assert "random weights" in caplog.text
    assert "mean nothing" in info.weights_origin
    assert loaded_elsewhere(f"{CNN}@random", tmp_path)[0] == info.weights_sha256


def test_drawing_random_weights_leaves_torchs_own_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    PLUGIN.load(f"{CNN}@random")
    assert torch.equal(torch.rand(1), expected)


# Weights from a file.


def saved(state: dict[str, Any], path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def from_file(path: Path, architecture: str = CNN) -> TimmBackbone:
    return PLUGIN.load(f"{architecture}@{path}")


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_a_file_gives_the_features_that_timm_gives(ending: str, tmp_path: Path) -> None:
    state = state_of(CNN)
    path = saved(state, tmp_path / f"weights{ending}")
    backbone = from_file(path)
    assert backbone.info.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    plain = timm.create_model(CNN, num_classes=0).eval()
    plain.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith("fc.")})
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(features_of(backbone.torch_module(), images), plain(images))


def test_a_file_may_have_any_number_of_classes_or_none(tmp_path: Path) -> None:
    images = torch.randn(1, 3, 160, 160)
    found = [
        features_of(
            from_file(saved(state_of(CNN, num_classes=n), tmp_path / f"{n}.pth")).torch_module(), images
        )
        for n in (7, 1000, 0)
    ]
    assert [one.shape for one in found] == [(1, 96)] * 3


def test_the_usual_wrappings_of_a_checkpoint_are_taken_off(tmp_path: Path) -> None:
    state = state_of(CNN)
    wrapped = {"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}
    images = torch.randn(1, 3, 160, 160)
    torch.testing.assert_close(
        features_of(from_file(saved(wrapped, tmp_path / "wrapped.pth")).torch_module(), images),
        features_of(from_file(saved(state, tmp_path / "plain.pth")).torch_module(), images),
    )


def test_a_sidecar_beside_the_file_changes_pictures_and_input_size(tmp_path: Path) -> None:
    path = saved(state_of(VIT, img_size=192, num_classes=3), tmp_path / "mine.v1.safetensors")
    facts = {
        "licence": "CC0-1.0",
        "image": {"height": 192, "width": 192, "mean": [127.5] * 3, "std": [63.75] * 3},
    }
    (tmp_path / "mine.v1.json").write_text(json.dumps(facts))
    info = from_file(path, VIT).info
    assert (info.image.height, info.image.width, info.image.std, info.licence) == (
        192,
        192,
        (63.75,) * 3,
        "CC0-1.0",
    )
    wrong: Any
    for wrong in (
        {"image": {"colour": 1}},
        {"image": {"std": [0, 1, 1]}},
        {"image": {"height": "a"}},
        [1],
        {"x": 1},
    ):
        (tmp_path / "mine.v1.json").write_text(json.dumps(wrong))
        with pytest.raises(WeightsUnavailable, match=r"mine\.v1\.json"):
            from_file(path, VIT)


def test_files_that_do_not_fit_are_refused_with_the_reason(tmp_path: Path) -> None:
    def refused(path: Path, reason: str) -> None:
        with pytest.raises(WeightsUnavailable, match=reason):
            from_file(path)

    refused(tmp_path / "nowhere.pth", "no weights file")
    for ending in ("pth", "safetensors"):
        (tmp_path / f"text.{ending}").write_text("hello")
        refused(tmp_path / f"text.{ending}", "as weights")
    whole = tmp_path / "whole.pth"
    torch.save(timm.create_model(CNN), whole)
    refused(whole, "could run code")
    refused(saved({}, tmp_path / "nothing.pth"), "no state_dict")
    refused(saved({"epoch": 1}, tmp_path / "number.pth"), "no state_dict")
    refused(saved(state_of(VIT), tmp_path / "other.pth"), "another architecture")
    part = state_of(CNN)
    missing = next(iter(part))
    del part[missing]
    refused(saved(part, tmp_path / "part.pth"), missing)
    refused(saved({**state_of(CNN), "extra": torch.ones(1)}, tmp_path / "more.pth"), "extra")


# Weights from the hub.


def put(model: Path, state: dict[str, torch.Tensor], config: dict[str, Any] | None = None) -> None:
    model.mkdir(parents=True)
    save_file(state, model / "model.safetensors")
    if config is not None:
        (model / "config.json").write_text(json.dumps(config))


def test_weights_are_downloaded_once_and_then_serve_offline_with_the_same_digest(
    tmp_path: Path, hub: Hub
) -> None:
    put(hub.folder / "timm" / f"{CNN}.r160_in1k", state_of(CNN))
    first = loaded_elsewhere(CNN, tmp_path / "home", HF_ENDPOINT=hub.address)
    assert first[1:3] == ["Apache-2.0", "96"]
    assert f"{CNN}.r160_in1k" in first[3]
    assert loaded_elsewhere(f"{CNN}.r160_in1k", tmp_path / "home", **OFFLINE)[0] == first[0]


def test_a_model_of_the_hub_needs_no_entry_in_timm(tmp_path: Path, hub: Hub) -> None:
    config = {
        "architecture": CNN,
        "num_classes": 5,
        "pretrained_cfg": {"input_size": [3, 96, 96], "license": "mit", "num_classes": 5, "classifier": "fc"},
    }
    put(hub.folder / "me" / "birds", state_of(CNN, num_classes=5), config)
    found = loaded_elsewhere("hf-hub:me/birds", tmp_path / "home", HF_ENDPOINT=hub.address)
    assert found[1:3] == ["MIT", "96"]
    assert "me/birds" in found[3]
    assert PLUGIN.load(f"local-dir:{hub.folder / 'me' / 'birds'}").info.image.height == 96


def test_without_the_weights_offline_the_error_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(AssertionError) as caught:
        loaded_elsewhere(CNN, tmp_path, **OFFLINE)
    error = str(caught.value)
    assert "WeightsUnavailable" in error
    for help_ in (f"https://huggingface.co/timm/{CNN}.r160_in1k", f"timm/{CNN}@FILE", "HF_HOME"):
        assert help_ in error


def test_an_architecture_without_weights_names_those_that_have_some() -> None:
    bare = next(name for name in timm.list_models() if not timm.models.is_model_pretrained(name))
    with pytest.raises(WeightsUnavailable, match=f"timm has no weights for {bare}.*timm/{bare}@FILE"):
        PLUGIN.load(bare)
