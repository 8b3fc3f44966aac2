"""What the plugin knows without torch, held to the installed torchvision. Nothing is downloaded here."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from tlserve_torchvision import PLUGIN, TorchvisionPlugin, catalogue
from tlserve_torchvision.architectures import Family, family_of
from tlserve_torchvision.network import build, widths
from tlserve_torchvision.weights import digest_beginning, image_of
from torchvision import models
from torchvision.transforms._presets import ImageClassification

from tlserve.plugin_api import BackboneError, BackboneFacts, DescribingPlugin, ImageSpec, WeightsUnavailable

ARCHITECTURES = models.list_models(module=models)
TOO_LARGE = {"regnet_y_128gf", "vit_h_14"}
slow = pytest.mark.skipif(
    "TLSERVE_SLOW_TESTS" not in os.environ, reason="takes a minute; set TLSERVE_SLOW_TESTS=1"
)


def every_set() -> list[tuple[str, Any]]:
    """(architecture, member of its weights enum) for all of torchvision's classifiers."""
    return [(name, member) for name in ARCHITECTURES for member in models.get_model_weights(name)]


def test_every_architecture_and_every_set_of_weights_is_listed() -> None:
    listed = PLUGIN.names()
    assert listed[-2:] == ("ARCH@FILE", "ARCH@random")
    assert len(set(listed)) == len(listed)
    wanted = set(ARCHITECTURES)
    for name, member in every_set():
        if member is not models.get_model_weights(name).DEFAULT:
            wanted.add(f"{name}@{member.name}")
    assert set(listed[:-2]) == wanted


def test_what_is_known_of_each_set_of_weights_is_what_torchvision_says() -> None:
    for name, member in every_set():
        entry = catalogue.entries()[name, member.name]
        side = member.transforms().crop_size[0]
        is_default = member is models.get_model_weights(name).DEFAULT
        assert (entry.side_pixels, entry.is_default) == (side, is_default), member
        stated = "SWAG/blob/main/LICENSE" in member.meta.get("license", "")
        assert (catalogue.licence_of(member.name) == "CC-BY-NC-4.0") == stated, member
        assert len(digest_beginning(member)) >= 8, member


def test_parameters_are_torchvisions_without_the_classifier() -> None:
    otherwise = {"maxvit_t", "inception_v3", "googlenet"}  # no bias; outputs at the side; outputs at the side
    for name, member in every_set():
        entry = catalogue.entries()[name, member.name]
        if name not in otherwise and member.name != catalogue.FEATURES_ONLY:
            classifier = 1000 * (entry.widths[-1] + 1)
            assert entry.n_parameters == member.meta["num_params"] - classifier, member


@pytest.mark.parametrize(
    "smallest_only", [True, pytest.param(False, marks=[pytest.mark.slow, slow])], ids=["quick", "all"]
)
def test_parameters_taps_and_blocks_are_those_of_the_networks(smallest_only: bool) -> None:
    smallest: dict[Family, int] = {}
    for entry in sorted(set(catalogue.entries().values()), key=lambda entry: entry.n_parameters):
        size = smallest.setdefault(family_of(entry.architecture), entry.n_parameters)
        if entry.n_parameters == size or not smallest_only:
            _check_network(entry)


def _check_network(entry: catalogue.Entry) -> None:
    name, side = entry.architecture, entry.side_pixels
    if name in TOO_LARGE:
        return
    # torchvision cannot lay out a regnet without numbers.
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        only = entry.weights == catalogue.FEATURES_ONLY
        network = build(name, side, initialise=False, convolutions_only=only)
        assert tuple(widths(network, side, side).values()) == entry.widths, entry
    parameters = [id(parameter) for parameter in network.parameters()]
    assert sum(parameter.numel() for parameter in network.parameters()) == entry.n_parameters, entry
    blocks = [[id(parameter) for parameter in block.parameters()] for block in network.blocks()]
    assert sorted(chain.from_iterable(blocks)) == sorted(parameters), entry
    assert len(entry.widths) >= 4, entry
    assert len(blocks) >= len(entry.widths) - only, entry


def test_pictures_are_prepared_as_each_set_of_weights_wants_them() -> None:
    for _, member in every_set():
        wanted = member.transforms()
        assert type(wanted) is ImageClassification, f"{member}: an unknown way to prepare pictures"
        spec = image_of(member)
        assert [spec.height] == [spec.width] == wanted.crop_size, member
        assert [spec.resize_short_side] == wanted.resize_size, member
        assert spec.interpolation == wanted.interpolation.value, member
        assert spec.mean == pytest.approx([255 * value for value in wanted.mean]), member
        assert spec.std == pytest.approx([255 * value for value in wanted.std]), member


@pytest.mark.parametrize(
    ("member", "wanted"),
    [
        ("ResNet50_Weights.IMAGENET1K_V1", (224, 256, "bilinear", 123.675, 58.395)),
        ("ResNet50_Weights.IMAGENET1K_V2", (224, 232, "bilinear", 123.675, 58.395)),
        ("Inception_V3_Weights.IMAGENET1K_V1", (299, 342, "bilinear", 123.675, 58.395)),
        ("ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1", (384, 384, "bicubic", 123.675, 58.395)),
        ("EfficientNet_V2_L_Weights.IMAGENET1K_V1", (480, 480, "bicubic", 127.5, 127.5)),
        ("VGG16_Weights.IMAGENET1K_FEATURES", (224, 256, "bilinear", 122.99925, 1.0)),
    ],
)
def test_well_known_preparations(member: str, wanted: tuple[object, ...]) -> None:
    spec: ImageSpec = image_of(models.get_weight(member))
    found = (spec.height, spec.resize_short_side, spec.interpolation, spec.mean[0], spec.std[0])
    assert found == wanted


def test_each_set_of_weights_is_fetched_from_its_own_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    asked: list[str] = []

    def offline(address: str, path: Path, sha256_beginning: str) -> None:
        asked.append(address)
        raise URLError("no network")

    plugin = TorchvisionPlugin(offline)
    fetched = []
    for name, member in every_set():
        if name in TOO_LARGE:
            with pytest.raises(BackboneError, match=rf"{name}@{member.name}: 2\.\d GB .* one ONNX file"):
                plugin.load(f"{name}@{member.name}")
        else:
            fetched.append(member.url)
            with pytest.raises(WeightsUnavailable, match=member.url):
                plugin.load(f"{name}@{member.name}")
    assert asked == fetched
    assert len(fetched) == len(set(fetched)) >= 111


def test_facts_say_what_loading_says() -> None:
    assert isinstance(PLUGIN, DescribingPlugin)
    info = PLUGIN.load("squeezenet1_1@random").info
    row_width = sum(tap.width for tap in info.taps)
    said = BackboneFacts(info.licence, info.n_parameters, info.image.height, info.image.width, row_width)
    assert PLUGIN.facts("squeezenet1_1@random") == said
    swag = PLUGIN.facts("vit_b_16@IMAGENET1K_SWAG_E2E_V1")
    assert swag == BackboneFacts("CC-BY-NC-4.0", 86_090_496, 384, 384, 5 * 768)
    for unknown in ("ARCH@FILE", "ARCH@random", "resnet50@mine.pth", "resnet5O", ""):
        assert PLUGIN.facts(unknown) is None


def test_a_listing_needs_no_torch_and_random_weights_are_the_same_in_every_process() -> None:
    program = """
import sys
from tlserve_torchvision import PLUGIN
known = [PLUGIN.facts(name) for name in PLUGIN.names()]
assert known.count(None) == 2 and "torch" not in sys.modules, known
print(PLUGIN.load("squeezenet1_1@random").info.weights_sha256)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == PLUGIN.load("squeezenet1_1@random").info.weights_sha256
    assert "has random weights" in result.stderr
