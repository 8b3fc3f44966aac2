"""How the Triton folder follows LIVE: with pauses after failures, without what was live for a moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tlserve.app.exports import Exporter
from tlserve.core.messages import Exported, ExportJob, Job, PassDone, PassJob
from tlserve.release import LiveState
from tlserve.release.layout import StateLayout
from tlserve.schedule import PassRequest, Scheduler
from tlserve.schedule.keeper import LastEvent

MODEL = "flowers"


class ExportingTrainer:
    """Notes what it is asked to export, and exports it unless it is broken."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.done: list[int] = []
        self.broken = False

    async def cancel(self, job_id: str) -> None: ...

    async def run(self, job: Job) -> LastEvent:
        assert isinstance(job, ExportJob)
        self.asked.append(job.live)
        if self.broken:
            return Exported(job.job_id, job.model, job.live, "", "the disk is full")
        self.done.append(job.live)
        return Exported(job.job_id, job.model, job.live, "")


class Nobody:
    def pass_queued(self, model: str) -> None: ...

    async def pass_ended(self, request: PassRequest, done: PassDone) -> None: ...


class House:
    """A model's LIVE as the test sets it, and the exporter that follows it."""

    def __init__(self, layout: StateLayout, scheduler: Scheduler, trainer: ExportingTrainer) -> None:
        self.trainer = trainer
        self.following: list[asyncio.Task[None]] = []
        self.last_read: int | None = None
        self._live = LiveState()
        self._exporter = Exporter(layout, scheduler, self._read, rest_seconds=0.05)

    def live_is(self, version: int) -> None:
        self._live = LiveState(live=version)
        self.following.append(asyncio.create_task(self._exporter.follow_live(MODEL)))

    def _read(self, model: str) -> LiveState:
        self.last_read = self._live.live
        return self._live


@asynccontextmanager
async def a_house(tmp_path: Path) -> AsyncIterator[House]:
    def no_pass(request: PassRequest) -> PassJob:
        raise AssertionError("nothing was dropped")

    trainer = ExportingTrainer()
    scheduler = Scheduler(trainer, Nobody(), make_job=no_pass, models=lambda: (), reconcile_seconds=1000.0)
    running = asyncio.create_task(scheduler.run())
    house = House(StateLayout(tmp_path), scheduler, trainer)
    try:
        yield house
    finally:
        for task in (running, *house.following):
            task.cancel()
        await asyncio.gather(running, *house.following, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_versions_that_were_live_for_a_moment_are_left_out(tmp_path: Path) -> None:
    async with a_house(tmp_path) as house:
        house.live_is(1)
        await until(lambda: house.trainer.done == [1])
        for version in (2, 3, 4):
            house.live_is(version)
        await until(lambda: all(task.done() for task in house.following))
        assert house.trainer.asked == [1, 4]


async def test_what_could_not_be_exported_is_tried_again_after_a_pause_whoever_reminds_of_it(
    tmp_path: Path,
) -> None:
    async with a_house(tmp_path) as house:
        house.trainer.broken = True
        house.live_is(1)
        await until(lambda: house.trainer.asked == [1])
        house.live_is(1)  # as a pin does that is taken back at once
        await until(lambda: house.trainer.asked == [1, 1])
        for _ in range(50):
            await asyncio.sleep(0.005)
            assert house.trainer.asked == [1, 1]


async def test_a_version_that_failed_and_comes_back_is_exported_then(tmp_path: Path) -> None:
    async with a_house(tmp_path) as house:
        house.trainer.broken = True
        house.live_is(1)
        await until(lambda: house.trainer.asked == [1])
        house.live_is(2)
        await until(lambda: house.last_read == 2)  # and given up on version 1
        house.trainer.broken = False
        house.live_is(1)
        await until(lambda: house.trainer.done == [1])
