"""Throughput through a real gRPC server, as a share of what the bare session does in the same run.

    python -m tests.benchmarks serving

Server in this process, 32 clients in another one. Every round measures the bare session and the served
paths one after the other; the medians over the rounds of their ratios are the result. `cpu` ratios
compare images per CPU second instead (client included in the served ones): they hold on a busy machine
too, and on an idle one both agree.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tests.rpc.colours import ColourBackend
from tlserve.core.head import Dense, Head
from tlserve.core.types import Pixels
from tlserve.images import DEFAULT_MAX_PIXELS
from tlserve.plugin_host import PluginHost, make_build
from tlserve.rpc.backend import Answer
from tlserve.rpc.server import RpcServer
from tlserve.runtime import BackboneSession, choose_device, reference_pixels
from tlserve.serving import InferencePool, PoolSettings, ServableVersion

MODEL = "flowers"
LABELS = ("daisy", "dandelion", "roses", "sunflowers", "tulips")
N_CLIENTS = 32
PIXELS_BAR, JPEG_BAR = 0.75, 0.55


@dataclass(frozen=True)
class Served:
    """One way through the server, compared with the bare session."""

    images_per_second: float
    ratio: float
    cpu_ratio: float
    p50_ms: float
    p99_ms: float
    mean_batch: float


@dataclass(frozen=True)
class ServingReport:
    bare_images_per_second: float
    bare_setup: str
    executors: int
    threads: int
    paths: dict[str, Served]
    """pixels and jpeg, over gRPC."""


class PoolBackend(ColourBackend):
    """The Backend protocol over a real pool, for predictions."""

    def __init__(self, pool: InferencePool, watch: Path) -> None:
        super().__init__(watch)
        self._pool = pool

    async def predict(
        self, model: str, version: str, images: Sequence[bytes] | Pixels, *, timeout_seconds: float | None
    ) -> Answer:
        loop = asyncio.get_running_loop()
        deadline = None if timeout_seconds is None else loop.time() + timeout_seconds
        async with self._pool.lease(model, version) as lease:
            told = await self._pool.predict(lease, images, deadline=deadline)
        return Answer(
            told.model,
            told.version,
            told.labels,
            told.probabilities,
            told.features,
            told.novelty,
            told.novelty > 0.99,
        )


def measure_serving(
    backbone: Path,
    photos: Sequence[Path],
    *,
    seconds: float = 4,
    rounds: int = 5,
    settings: PoolSettings | None = None,
) -> ServingReport:
    """`photos`: JPEG files, sent as they are; `seconds` for each slice of each round."""
    with TemporaryDirectory() as folder:
        settings = settings or PoolSettings()
        measuring = _measure(
            Path(folder), backbone, photos, seconds=seconds, rounds=rounds, settings=settings
        )
        return asyncio.run(measuring)


async def _measure(
    folder: Path,
    backbone: Path,
    photos: Sequence[Path],
    *,
    seconds: float,
    rounds: int,
    settings: PoolSettings,
) -> ServingReport:
    device = choose_device("cpu")
    build = make_build(PluginHost().load(f"onnx:{backbone}"), "onnx", folder, device)
    bare_setup, bare = _best_bare(build, seconds / 4)
    slices: dict[str, list[tuple[float, float]]] = {"pixels": [], "jpeg": []}
    heard: dict[str, list[dict[str, Any]]] = {"pixels": [], "jpeg": []}
    bare_rates = []
    async with _serving(folder, build, settings) as (pool, address), _clients(address, photos) as ask:
        for path in slices:
            await ask(path, 1.0)
        for _ in range(rounds):
            bare_rate, bare_per_cpu = await asyncio.to_thread(_timed, bare, seconds)
            bare_rates.append(bare_rate)
            for path, ratios in slices.items():
                before, cpu = pool.totals(), time.process_time()
                told = await ask(path, seconds)
                spent = time.process_time() - cpu + told["cpu_seconds"]
                after = pool.totals()
                told["batch"] = (after.batch_rows - before.batch_rows) / (after.batches - before.batches)
                heard[path].append(told)
                ratios.append((told["rate"] / bare_rate, told["images"] / spent / bare_per_cpu))
        used = pool.settings
    paths = {
        path: Served(
            images_per_second=_median(told["rate"] for told in heard[path]),
            ratio=_median(ratio for ratio, _ in slices[path]),
            cpu_ratio=_median(cpu for _, cpu in slices[path]),
            p50_ms=_median(told["p50_ms"] for told in heard[path]),
            p99_ms=_median(told["p99_ms"] for told in heard[path]),
            mean_batch=_median(told["batch"] for told in heard[path]),
        )
        for path in slices
    }
    return ServingReport(_median(bare_rates), bare_setup, used.executors, used.threads, paths)


def _median(values: Any) -> float:
    return round(float(statistics.median(values)), 3)


# -- the bare session


Bare = Callable[[float], int]
"""Runs for so many seconds on all cores; returns how many images it did."""


def _best_bare(build: Path, seconds: float) -> tuple[str, Bare]:
    """The fastest way to drive the session with both cores: threads inside or side by side, and batch."""
    found: list[tuple[float, str, Bare]] = []
    for threads, callers in ((2, 1), (1, 2)):
        session = BackboneSession.open(build, choose_device("cpu"), threads=threads)
        for batch in (1, 4, 8, 16, 32):
            bare = _bare(session, batch, callers)
            bare(0.3)
            name = f"{callers} caller(s) x {threads} thread(s), batch {batch}"
            found.append((_timed(bare, seconds)[0], name, bare))
    _, name, bare = max(found, key=lambda one: one[0])
    return name, bare


def _bare(session: BackboneSession, batch: int, callers: int) -> Bare:
    pixels = np.resize(
        reference_pixels(session.spec.image), (batch, session.spec.image.height, session.spec.image.width, 3)
    )

    def run(seconds: float) -> int:
        done, stop = [0] * callers, time.perf_counter() + seconds

        def call(caller: int) -> None:
            while time.perf_counter() < stop:
                session.rows(pixels)
                done[caller] += batch

        threads = [threading.Thread(target=call, args=(caller,)) for caller in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(done)

    return run


def _timed(bare: Bare, seconds: float) -> tuple[float, float]:
    """Images per second, and per CPU second."""
    started, cpu = time.perf_counter(), time.process_time()
    images = bare(seconds)
    return images / (time.perf_counter() - started), images / (time.process_time() - cpu)


# -- the server


@asynccontextmanager
async def _serving(
    folder: Path, build: Path, settings: PoolSettings
) -> AsyncIterator[tuple[InferencePool, str]]:
    pool = InferencePool(folder, choose_device("cpu"), settings, max_pixels=DEFAULT_MAX_PIXELS)
    await pool.start()
    draw = np.random.default_rng(0)
    weight = (draw.normal(size=(1280, 5)) / 100).astype(np.float32)
    layer = Dense(weight, np.zeros(5, np.float32))
    version = ServableVersion(MODEL, 1, build.name, Head(LABELS, ("features",), (layer,)))
    await pool.swap(await pool.load(version))
    server = RpcServer(PoolBackend(pool, folder), address="127.0.0.1:0")
    try:
        yield pool, await server.start()
    finally:
        await server.stop(1)
        await pool.close()


# -- the clients, in a process of their own


@asynccontextmanager
async def _clients(address: str, photos: Sequence[Path]) -> AsyncIterator[Callable[[str, float], Any]]:
    """A function that lets 32 clients ask for some seconds, and tells how it went."""
    args = ["-m", "tests.benchmarks.serving_clients", address, *map(str, photos)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *args, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    async def ask(path: str, seconds: float) -> dict[str, Any]:
        stdin.write(f"{path} {seconds} {N_CLIENTS}\n".encode())
        line = await stdout.readline()
        if not line:
            raise RuntimeError("the client process died")
        told: dict[str, Any] = json.loads(line)
        return told

    try:
        yield ask
    finally:
        stdin.close()
        await process.wait()


def run(shared: Path) -> dict[str, float | str]:
    """Needs ../shared: MobileNetV2, and flowers as photos of about 500 x 333."""
    photos = sorted((shared / "datasets/flowers").rglob("*.jpg"))[::7][:64]
    report = measure_serving(shared / "backbones/mobilenet_v2_imagenet.onnx", photos)
    lines: dict[str, float | str] = {
        "bare session, images/s": report.bare_images_per_second,
        "bare session's best": report.bare_setup,
        "pool": f"{report.executors} executors x {report.threads} threads",
    }
    for name, bar in (("pixels", PIXELS_BAR), ("jpeg", JPEG_BAR)):
        path = report.paths[name]
        lines |= {
            f"{name} over gRPC, images/s": path.images_per_second,
            f"{name} / bare (at least {bar})": path.ratio,
            f"{name} / bare, per CPU second": path.cpu_ratio,
            f"{name}, p50 ms": path.p50_ms,
            f"{name}, p99 ms": path.p99_ms,
            f"{name}, images in a batch": path.mean_batch,
        }
    return lines
