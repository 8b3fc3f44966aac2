"""Two tiny builds, heads drawn at random, and what each version must answer when served alone."""

from __future__ import annotations

import asyncio
import io
import itertools
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tests.support_build import tiny_build
from tlserve.core.errors import UnknownVersion
from tlserve.core.head import Dense, Head, Novelty, apply, novelty_scores
from tlserve.core.types import Pixels
from tlserve.images import DEFAULT_MAX_PIXELS
from tlserve.runtime import BackboneSession, choose_device
from tlserve.serving import InferencePool, PoolSettings, Prediction, ServableVersion

CPU = choose_device("cpu")
TAP_WIDTHS = {"early": 8, "features": 16}


def random_head(
    seed: int, labels: tuple[str, ...], taps: tuple[str, ...] = ("features",), hidden: int = 0
) -> Head:
    draw = np.random.default_rng(seed)
    sizes = [sum(TAP_WIDTHS[tap] for tap in taps), *([hidden] if hidden else []), len(labels)]
    layers = tuple(
        Dense(draw.normal(size=(a, b)).astype(np.float32), draw.normal(size=b).astype(np.float32))
        for a, b in itertools.pairwise(sizes)
    )
    centroids = draw.normal(size=(3, sizes[0])).astype(np.float32)
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    line = np.array([0.0, 0.5, 1.0, 1.5, 2.0], np.float32)
    ones = np.ones(sizes[0], np.float32)
    return Head(
        labels,
        taps,
        layers,
        novelty=Novelty(np.zeros(sizes[0], np.float32), ones, centroids, line, line * np.float32(0.5)),
    )


def some_pixels(n: int, seed: int = 0, side: int = 32) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """(H, W, 3) as a file that decodes to the same pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class HeldPixels(np.ndarray[Any, np.dtype[np.uint8]]):
    """Pixels that keep the executor which reads them waiting until `gate` opens."""

    gate: threading.Event
    reached: threading.Event
    reader = ""
    """Name of the thread that read them."""

    @classmethod
    def of(cls, pixels: Pixels) -> HeldPixels:
        held = pixels.view(cls)
        held.gate, held.reached = threading.Event(), threading.Event()
        return held

    def __array_finalize__(self, source: Any) -> None:
        self.gate = getattr(source, "gate", threading.Event())
        self.reached = getattr(source, "reached", threading.Event())

    def __getitem__(self, key: Any) -> Any:
        self.reader = threading.current_thread().name
        self.reached.set()
        if not self.gate.wait(30):
            raise TimeoutError("the test never opened the gate")
        return super().__getitem__(key)


@dataclass
class Stage:
    """A state folder with two builds, and pools over it."""

    folder: Path
    builds: list[str] = field(default_factory=list)
    stored: dict[tuple[str, int], ServableVersion] = field(default_factory=dict)
    reads: list[tuple[str, int]] = field(default_factory=list)
    sessions: dict[str, BackboneSession] = field(default_factory=dict)
    """The test's own, beside the pool's."""

    @classmethod
    def make(cls, folder: Path, n_builds: int = 2) -> Stage:
        stage = cls(folder)
        for seed in range(n_builds):
            made = tiny_build(folder / f"new{seed}", seed=seed)
            digest = f"{seed:064x}"
            made.rename(folder / digest)
            stage.builds.append(digest)
        return stage

    def version(
        self,
        model: str = "pets",
        number: int = 1,
        *,
        build: int = 0,
        labels: tuple[str, ...] = ("cat", "dog"),
        taps: tuple[str, ...] = ("features",),
        hidden: int = 0,
    ) -> ServableVersion:
        """A version with a head of its own; stored, so that the pool can read it on demand too."""
        seed = 1000 * number + sum(model.encode())
        head = random_head(seed, labels, taps, hidden)
        version = ServableVersion(model, number, self.builds[build], head)
        self.stored[model, number] = version
        return version

    def read(self, model: str, number: int) -> ServableVersion:
        self.reads.append((model, number))
        if (model, number) not in self.stored:
            raise UnknownVersion(model, str(number))
        return self.stored[model, number]

    @asynccontextmanager
    async def pool(
        self, *, start: bool = True, devices: int = 1, **settings: Any
    ) -> AsyncIterator[InferencePool]:
        """Batches are as large as they can be unless the settings name a target."""
        pool = InferencePool(
            self.folder,
            [CPU] * devices,
            PoolSettings(**{"batch_target_ms": 0.0, **settings}),
            max_pixels=DEFAULT_MAX_PIXELS,
            version_source=self.read,
        )
        if start:
            await pool.start()
        try:
            yield pool
        finally:
            await pool.close()

    def alone(self, version: ServableVersion, pixels: Pixels) -> tuple[Any, Any, Any]:
        """Probabilities, features and novelty of a version with nobody else around."""
        if version.build not in self.sessions:
            folder = self.folder / version.build
            self.sessions[version.build] = BackboneSession.open(folder, CPU, threads=1)
        session = self.sessions[version.build]
        features = session.rows(np.asarray(pixels))[:, session.spec.columns(version.head.taps)]
        return apply(version.head, features), features, novelty_scores(version.head, features)

    def check(self, answer: Prediction, version: ServableVersion, pixels: Pixels) -> None:
        probabilities, features, novelty = self.alone(version, pixels)
        assert (answer.model, answer.version) == (version.model, version.number)
        assert answer.labels == version.head.labels
        np.testing.assert_allclose(answer.probabilities, probabilities, atol=1e-5)
        np.testing.assert_allclose(answer.features, features, atol=1e-5)
        np.testing.assert_allclose(answer.novelty, novelty, atol=1e-5)


async def go_live(pool: InferencePool, version: ServableVersion) -> None:
    await pool.swap(await pool.load(version))


async def ask(
    pool: InferencePool,
    images: Any,
    model: str = "pets",
    version: str = "",
    deadline: float | None = None,
) -> Prediction:
    async with pool.lease(model, version) as lease:
        return await pool.predict(lease, images, deadline=deadline)


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait until the condition holds; fail when it does not in time."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


@asynccontextmanager
async def busy_executors(pool: InferencePool, model: str = "pets", n_devices: int = 1) -> AsyncIterator[None]:
    """Keep every executor of the pool waiting inside a one-image batch until the block ends."""
    n_threads = n_devices * pool.settings.executors
    held = [HeldPixels.of(some_pixels(1, seed=900 + i)) for i in range(n_threads)]
    asked = [asyncio.create_task(ask(pool, pixels, model)) for pixels in held]
    await until(lambda: all(pixels.reached.is_set() for pixels in held))
    try:
        yield
    finally:
        for pixels in held:
            pixels.gate.set()
        await asyncio.gather(*asked)
