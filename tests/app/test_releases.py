"""LIVE on disk and what answers are one, also where whoever asked for a change gives up amid it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from tests.release.conftest import DRAFT
from tests.serving.support_serving import CPU, random_head
from tests.support_build import tiny_build
from tlserve.app.board import Board
from tlserve.app.releases import Releases
from tlserve.core.lifecycle import Promotion
from tlserve.images import DEFAULT_MAX_PIXELS
from tlserve.observe import Metrics
from tlserve.release import LiveState, VersionStore
from tlserve.serving import InferencePool

MODEL, BUILD = "flowers", "b" * 64


class SlowDisk(VersionStore):
    """Writes LIVE when the test lets it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.reached, self.gate = threading.Event(), threading.Event()
        self.gate.set()

    def write_live(self, model: str, state: LiveState) -> int:
        self.reached.set()
        if not self.gate.wait(30):
            raise TimeoutError("the test never opened the gate")
        return super().write_live(model, state)


@asynccontextmanager
async def two_versions(tmp_path: Path) -> AsyncIterator[tuple[Releases, SlowDisk, InferencePool]]:
    """Version 1 of a model is live, version 2 is published."""
    tiny_build(tmp_path / "new").rename(tmp_path / BUILD)
    store = SlowDisk(tmp_path / "models")
    for seed in (1, 2):
        store.publish(MODEL, random_head(seed, ("a", "b")), replace(DRAFT, job_id=str(seed), build=BUILD), {})
    pool = InferencePool(tmp_path, [CPU], max_pixels=DEFAULT_MAX_PIXELS)
    await pool.start()
    releases = Releases(
        store,
        pool,
        Board(lambda event: None),
        Metrics(),
        export=lambda model: None,
        promotion=lambda model: Promotion.AUTO,
        keep_versions=lambda model: 20,
    )
    try:
        await releases.go_live(MODEL, 1, reason="first")
        yield releases, store, pool
    finally:
        await pool.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


async def test_a_promotion_given_up_while_live_is_written_takes_place_all_the_same(tmp_path: Path) -> None:
    async with two_versions(tmp_path) as (releases, store, pool):
        store.reached.clear()
        store.gate.clear()
        promotion = asyncio.create_task(releases.go_live(MODEL, 2, reason="by a person"))
        await until(store.reached.is_set)
        promotion.cancel()
        threading.Timer(0.05, store.gate.set).start()
        await asyncio.wait([promotion])
        assert promotion.cancelled()
        assert store.live(MODEL).live == releases.state(MODEL).live == pool.served(MODEL).number == 2


async def test_changes_after_one_that_was_given_up_wait_for_its_end(tmp_path: Path) -> None:
    async with two_versions(tmp_path) as (releases, store, pool):
        store.reached.clear()
        store.gate.clear()
        given_up = asyncio.create_task(releases.go_live(MODEL, 2, reason="by a person"))
        await until(store.reached.is_set)
        given_up.cancel()
        back = asyncio.create_task(releases.go_live(MODEL, 1, reason="by another"))
        threading.Timer(0.05, store.gate.set).start()
        await asyncio.wait([given_up, back])
        assert store.live(MODEL).live == releases.state(MODEL).live == pool.served(MODEL).number == 1
        assert store.live(MODEL).previous == 2
