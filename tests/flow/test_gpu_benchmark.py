"""The benchmark of GPUs, on a CPU and a tiny backbone: that its figures are there, not what they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.gpu import Plan, half_precision_build, measure_gpu
from tests.benchmarks.gpu import run as run_benchmark
from tests.support_build import tiny_build
from tlserve.runtime import BackboneSession, available_providers, choose_device, read_build_spec


def in_its_place(backbones: Path, scratch: Path) -> Path:
    build = tiny_build(scratch)
    return build.rename(backbones / read_build_spec(build).digest)


@pytest.mark.slow
def test_the_whole_way_is_measured(tmp_path: Path) -> None:
    plan = Plan("cpu", seconds=0.5, rounds=2, clients=4, processes=1, max_batch=8)
    lines = measure_gpu(tmp_path, lambda into: in_its_place(into, tmp_path / "tiny"), plan)
    assert lines["backbone"] == "tiny in fp32"
    assert str(lines["device"]).startswith("cpu, ")
    for name in ("pixels", "JPEG"):
        assert lines[f"{name}, failed requests"] == 0
        numbers = [value for line, value in lines.items() if line.startswith(name) and "/" in line]
        assert len(numbers) == 2
        assert all(isinstance(value, float) and value > 0 for value in numbers)
        p50, p99 = (lines[f"{name} at half load, p{share} ms"] for share in (50, 99))
        assert 0 < float(p50) <= float(p99)


@pytest.mark.slow
def test_it_serves_the_first_backbone_that_can_be_had_in_half_precision(tmp_path: Path) -> None:
    names = ("torchvision/no_such_network", "torchvision/squeezenet1_1@random")
    device = choose_device("cpu")
    build = half_precision_build(tmp_path, device, names)
    spec = read_build_spec(build)
    assert (spec.name, spec.precision) == ("torchvision/squeezenet1_1@random", "fp16")
    BackboneSession.open(build, device, threads=1).close()


@pytest.mark.skipif(
    available_providers().cuda_works, reason="a GPU is here: the benchmark would run for minutes"
)
def test_without_a_gpu_it_is_skipped_with_the_reason(tmp_path: Path) -> None:
    assert run_benchmark(tmp_path) == {"skipped, no GPU": available_providers().cuda_detail}
