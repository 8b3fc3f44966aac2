"""What only a GPU can show. Everything here is skipped, with the reason, where CUDA does not work."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from tests.support_build import tiny_build
from tlserve.core.errors import SettingsError
from tlserve.core.types import Pixels, Rows
from tlserve.runtime import (
    GRAPH_FILE,
    BackboneSession,
    Device,
    available_providers,
    choose_device,
    choose_devices,
    measure,
    read_build_spec,
)
from tlserve.runtime.bound import BoundRunner, Place
from tlserve.runtime.probe import gpu_count, tensorrt_problem

REPORT = available_providers()
pytestmark = pytest.mark.skipif(not REPORT.cuda_works, reason=f"needs a GPU: {REPORT.cuda_detail}")

BUCKETS = (1, 4, 16)


@pytest.fixture(scope="module")
def gpu() -> Device:
    return choose_device("cuda")


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_build(tmp_path_factory.mktemp("cuda") / "build")


@pytest.fixture(scope="module")
def on_cpu(build: Path) -> BackboneSession:
    return BackboneSession.open(build, choose_device("cpu"), threads=1)


@pytest.fixture
def on_gpu(build: Path, gpu: Device) -> Iterator[BackboneSession]:
    session = BackboneSession.open(build, gpu, buckets=BUCKETS)
    yield session
    session.close()


def drawn(n_images: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (n_images, 32, 32, 3), np.uint8)


def assert_same(rows: Rows, expected: Rows) -> None:
    """TensorFloat-32 is good for three digits."""
    scale = float(np.sqrt(np.mean(np.square(expected))))
    np.testing.assert_allclose(rows, expected, atol=0.01 * scale, rtol=0.01)


@pytest.mark.parametrize("n_images", [*range(1, 18), 32, 33, 50])
def test_the_gpu_gives_the_rows_of_the_cpu(
    on_gpu: BackboneSession, on_cpu: BackboneSession, n_images: int
) -> None:
    pixels = drawn(n_images, seed=n_images)
    assert_same(on_gpu.rows(pixels), on_cpu.rows(pixels))


def test_so_it_does_without_batch_sizes(build: Path, gpu: Device, on_cpu: BackboneSession) -> None:
    session = BackboneSession.open(build, gpu)
    assert session.buckets == ()
    assert_same(session.rows(drawn(7)), on_cpu.rows(drawn(7)))
    session.close()


def test_graphs_are_captured_for_every_batch_size(
    build: Path, gpu: Device, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "tlserve"):
        session = BackboneSession.open(build, gpu, buckets=BUCKETS)
    assert session.buckets == BUCKETS
    assert "MiB of buffers, CUDA graphs" in session.describe(), caplog.text
    session.close()


def test_a_replay_gives_what_a_plain_run_gives(build: Path, gpu: Device) -> None:
    spec, place = read_build_spec(build), Place("cuda", gpu.device_id)
    graph = str(build / GRAPH_FILE)
    captured = ort.InferenceSession(graph, providers=gpu.provider_list(graphs=True))
    plain = ort.InferenceSession(graph, providers=gpu.provider_list())
    replaying = BoundRunner(captured, spec, BUCKETS, place, graphs=True)
    running = BoundRunner(plain, spec, BUCKETS, place)
    for n_images in (1, 3, 4, 9, 16, 21, 2):
        pixels = drawn(n_images, seed=n_images)
        np.testing.assert_allclose(replaying.rows(pixels), running.rows(pixels), rtol=1e-3, atol=1e-4)
    replaying.close()
    running.close()


def test_many_threads_share_the_graphs_of_one(on_gpu: BackboneSession, on_cpu: BackboneSession) -> None:
    batches = [drawn(1 + seed % 20, seed) for seed in range(100)]
    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(on_gpu.rows, batches))
    for pixels, rows in zip(batches, answers, strict=True):
        assert_same(rows, on_cpu.rows(pixels))


def test_a_build_that_is_opened_disturbs_no_other(
    tmp_path: Path, gpu: Device, on_gpu: BackboneSession, on_cpu: BackboneSession
) -> None:
    others = [tiny_build(tmp_path / str(seed), seed=seed) for seed in (1, 2, 3)]

    def open_use_close(folder: Path) -> None:
        for _ in range(3):
            session = BackboneSession.open(folder, gpu, buckets=BUCKETS)
            assert "CUDA graphs" in session.describe()
            assert "no CUDA graphs" not in session.describe()
            session.close()

    pixels = drawn(11)
    expected = on_cpu.rows(pixels)
    with ThreadPoolExecutor(3) as openers:
        opening = [openers.submit(open_use_close, folder) for folder in others]
        while not all(one.done() for one in opening):
            assert_same(on_gpu.rows(pixels), expected)
        for one in opening:
            one.result()


def test_memory_is_bounded_by_the_setting(build: Path, on_cpu: BackboneSession) -> None:
    (limited, *_) = choose_devices("cuda", gpu_memory_mb=512)
    assert dict(limited.options)["gpu_mem_limit"] == str(512 * 2**20)
    session = BackboneSession.open(build, limited, buckets=BUCKETS)
    assert_same(session.rows(drawn(16)), on_cpu.rows(drawn(16)))
    session.close()
    loaded = ort.InferenceSession(str(build / GRAPH_FILE), providers=limited.provider_list())
    given = loaded.get_provider_options()["CUDAExecutionProvider"]
    assert given["gpu_mem_limit"] == str(512 * 2**20)
    assert given["cudnn_conv_algo_search"] == "HEURISTIC"
    assert given["arena_extend_strategy"] == "kSameAsRequested"


def test_every_gpu_gives_the_same_rows(build: Path, on_cpu: BackboneSession) -> None:
    devices = choose_devices("cuda")
    assert len(devices) == gpu_count()
    sessions = [BackboneSession.open(build, device, buckets=BUCKETS) for device in devices]
    for session in sessions:
        assert_same(session.rows(drawn(5)), on_cpu.rows(drawn(5)))
        session.close()


def test_speed_is_measured_on_the_gpu_by_name(on_gpu: BackboneSession) -> None:
    one, batch = measure(on_gpu, (1, 16), seconds=0.2)
    assert one.device == batch.device == on_gpu.device.name
    assert one.hardware
    assert batch.images_per_second > one.images_per_second


def test_tensorrt_gives_the_rows_of_the_cpu_or_says_what_is_missing(
    build: Path, gpu: Device, on_cpu: BackboneSession
) -> None:
    if tensorrt_problem(gpu.device_id) is not None:
        with pytest.raises(SettingsError, match=f"tensorrt is set, but on {gpu.name}"):
            choose_devices(gpu.name, tensorrt=True)
        return
    (device,) = choose_devices(gpu.name, tensorrt=True)
    session = BackboneSession.open(build, device, buckets=BUCKETS)
    for n_images in (1, 3, 16, 20):
        assert_same(session.rows(drawn(n_images)), on_cpu.rows(drawn(n_images)))
    session.close()
    assert any((build / "tensorrt").iterdir())
