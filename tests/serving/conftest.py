"""A fresh state folder with two builds for each test, and a real network in two precisions for all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.serving.support_serving import CPU, Stage
from tlserve.core.precision import Precision
from tlserve.plugin_host import PluginHost, make_build, reduce_build
from tlserve.runtime import read_build_spec, reference_pixels


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage.make(tmp_path)


@pytest.fixture(scope="session")
def mobilenet(
    shared: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[Precision, Path]:
    """MobileNetV2 as an fp32 build, and reduced to int8, side by side in one folder."""
    graph = shared("backbones/mobilenet_v2_imagenet.onnx")
    folder = tmp_path_factory.mktemp("mobilenet")
    plain = make_build(PluginHost().load(f"onnx:{graph}"), "onnx", folder, CPU)
    pictures = reference_pixels(read_build_spec(plain).image)
    return {Precision.FP32: plain, Precision.INT8: reduce_build(plain, Precision.INT8, pictures, CPU)}
