"""What TensorRT is told about a build; it runs in test_cuda.py, where there is one."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support_build import tiny_build
from tlserve.runtime import BuildSpec, Device, read_build_spec
from tlserve.runtime.probe import CUDA_PROVIDER, TENSORRT_PROVIDER, tensorrt_problem
from tlserve.runtime.tensorrt import ENGINE_FOLDER, tensorrt_provider, tensorrt_takes

GPU = Device("cuda:1", CUDA_PROVIDER, device_id=1, tensorrt=True)


@pytest.fixture
def build(tmp_path: Path) -> Path:
    return tiny_build(tmp_path / "build")


@pytest.fixture
def spec(build: Path) -> BuildSpec:
    return read_build_spec(build)


def test_where_it_is_not_installed_that_is_said() -> None:
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is installed")
    problem = tensorrt_problem(0)
    assert problem is not None
    assert "its libraries are not found" in problem or "built without TensorRT" in problem


def test_engines_lie_beside_the_graph_and_the_digest_stays(build: Path, spec: BuildSpec) -> None:
    name, options = tensorrt_provider(spec, GPU, build, ())
    engines = build / ENGINE_FOLDER
    assert name == TENSORRT_PROVIDER
    assert engines.is_dir()
    assert (options["device_id"], options["trt_engine_cache_enable"]) == ("1", "1")
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == str(engines)
    assert not any("profile" in option for option in options)
    assert read_build_spec(build) == spec


@pytest.mark.parametrize(("precision", "flag"), [("fp32", "0"), ("fp16", "1")])
def test_half_precision_is_for_half_precision_builds_only(
    build: Path, spec: BuildSpec, precision: str, flag: str
) -> None:
    _, options = tensorrt_provider(replace(spec, precision=precision), GPU, build, ())
    assert options["trt_fp16_enable"] == flag


def test_one_engine_serves_all_batch_sizes(build: Path, spec: BuildSpec) -> None:
    _, options = tensorrt_provider(spec, GPU, build, (1, 16, 4))
    assert options["trt_profile_min_shapes"] == "pixels:1x32x32x3"
    assert options["trt_profile_opt_shapes"] == options["trt_profile_max_shapes"] == "pixels:16x32x32x3"


@pytest.mark.parametrize(("precision", "takes"), [("fp32", True), ("fp16", True), ("int8", False)])
def test_it_takes_no_build_in_8_bits(spec: BuildSpec, precision: str, takes: bool) -> None:
    build = replace(spec, precision=precision)
    assert tensorrt_takes(build, GPU) is takes
    assert not tensorrt_takes(build, replace(GPU, tensorrt=False))
