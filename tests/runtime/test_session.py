from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.support_build import tiny_build
from tlserve.core.errors import BadInput, BuildMismatch, CorruptState, Unavailable
from tlserve.runtime import (
    GRAPH_FILE,
    REFERENCE_FILE,
    SPEC_FILE,
    BackboneSession,
    BuildSpec,
    Device,
    available_providers,
    choose_device,
    read_build_spec,
    reference_pixels,
    write_build_spec,
)

CPU = choose_device("cpu")


@pytest.fixture
def build(tmp_path: Path) -> Path:
    return tiny_build(tmp_path / "build")


def test_a_build_gives_its_reference_rows(build: Path) -> None:
    session = BackboneSession.open(build, CPU)
    assert session.spec == read_build_spec(build)
    rows = session.rows(reference_pixels(session.spec.image))
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, np.load(build / REFERENCE_FILE), rtol=1e-4, atol=1e-5)


def test_an_image_gets_the_same_row_alone_and_in_a_batch_and_on_any_thread(build: Path) -> None:
    session = BackboneSession.open(build, CPU, threads=2)
    pixels = reference_pixels(session.spec.image)
    whole = session.rows(pixels)
    with ThreadPoolExecutor(4) as threads:
        single = list(threads.map(lambda i: session.rows(pixels[i : i + 1])[0], range(8)))
    np.testing.assert_allclose(np.stack(single), whole, rtol=1e-4, atol=1e-5)


def test_an_empty_batch_gives_no_rows(build: Path) -> None:
    assert BackboneSession.open(build, CPU).rows(np.empty((0, 32, 32, 3), np.uint8)).shape == (0, 24)


@pytest.mark.parametrize(
    ("shape", "kind"), [((1, 32, 31, 3), np.uint8), ((32, 32, 3), np.uint8), ((1, 32, 32, 3), np.int8)]
)
def test_other_pixels_are_refused(build: Path, shape: tuple[int, ...], kind: type) -> None:
    with pytest.raises(BadInput, match=r"uint8 of shape \(n, 32, 32, 3\)"):
        BackboneSession.open(build, CPU).rows(np.zeros(shape, kind))


def test_a_host_that_gives_other_rows_is_a_mismatch(build: Path) -> None:
    np.save(build / REFERENCE_FILE, np.load(build / REFERENCE_FILE) * 1.05)
    with pytest.raises(BuildMismatch, match="'early' differs"):
        BackboneSession.open(build, CPU)
    BackboneSession.open(build, CPU, check=False).close()


def test_rows_that_are_not_finite_are_a_mismatch(build: Path) -> None:
    np.save(build / REFERENCE_FILE, np.load(build / REFERENCE_FILE) * np.nan)
    with pytest.raises(BuildMismatch):
        BackboneSession.open(build, CPU)


@pytest.mark.parametrize("name", [GRAPH_FILE, SPEC_FILE, REFERENCE_FILE])
@pytest.mark.parametrize("content", [None, b"", b"rubbish" * 50])
def test_a_broken_file_of_the_build_is_named(build: Path, name: str, content: bytes | None) -> None:
    (build / name).unlink()
    if content is not None:
        (build / name).write_bytes(content)
    with pytest.raises(CorruptState, match=name):
        BackboneSession.open(build, CPU)


def test_a_graph_of_another_width_than_declared_is_corrupt(build: Path) -> None:
    raw = json.loads((build / SPEC_FILE).read_text())
    raw["taps"][1]["width"] = 17
    altered = BuildSpec.from_json(json.dumps(raw))
    write_build_spec(build, BuildSpec.of(altered.info, altered.plugin))
    with pytest.raises(CorruptState, match="rows of 24 numbers, its spec declares 25"):
        BackboneSession.open(build, CPU)


def test_a_closed_session_says_so_and_closes_again(build: Path) -> None:
    session = BackboneSession.open(build, CPU)
    session.warm_up([1, 2])
    session.close()
    session.close()
    with pytest.raises(Unavailable, match="closed"):
        session.rows(np.zeros((1, 32, 32, 3), np.uint8))


@pytest.mark.parametrize("spin", [False, True])
def test_a_cpu_session_takes_every_batch_size_as_it_comes(build: Path, spin: bool) -> None:
    session = BackboneSession.open(build, CPU, threads=2, spin=spin, buckets=(4, 8))
    assert session.buckets == ()
    assert session.describe() == "cpu, any batch size, 2 threads"
    pixels = reference_pixels(session.spec.image)[:5]
    np.testing.assert_allclose(
        session.rows(pixels), np.load(build / REFERENCE_FILE)[:5], rtol=1e-4, atol=1e-5
    )


@pytest.mark.skipif(available_providers().cuda_works, reason="a GPU is here")
@pytest.mark.parametrize("buckets", [(), (1, 4)])
def test_a_gpu_session_never_runs_on_the_cpu_unnoticed(build: Path, buckets: tuple[int, ...]) -> None:
    lost = Device("cuda:0", "CUDAExecutionProvider", (("device_id", "0"),))
    with pytest.raises(Unavailable, match="without CUDAExecutionProvider"):
        BackboneSession.open(build, lost, buckets=buckets)


def test_the_runtime_needs_neither_torch_nor_onnx() -> None:
    heavy = ["torch", "torchvision", "sklearn", "scipy", "onnx"]
    check = f"import sys, tlserve.runtime, tlserve.images; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
