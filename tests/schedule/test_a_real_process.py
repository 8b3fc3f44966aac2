"""The scheduler, the keeper and a child process: how a pass makes room over real pipes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from tests.schedule.a_long_trainer import N_IMAGES
from tests.schedule.a_stage import Notes, job_of, until
from tlserve.core.messages import Event, ImagesPassed, Progress
from tlserve.schedule import Scheduler, TrainerKeeper

COMMAND = [sys.executable, "-m", "tests.schedule.a_long_trainer"]


class Play:
    """A scheduler whose trainer is a process."""

    def __init__(self) -> None:
        self.notes = Notes()
        self.n_passed: dict[str, int] = {}
        """Images of the large model, by job."""
        self.keeper = TrainerKeeper(COMMAND, self._heard)
        self.scheduler = Scheduler(
            self.keeper,
            self.notes,
            make_job=job_of,
            models=lambda: (),
            reconcile_seconds=1000.0,
            first_retry_seconds=0.01,
            turn_seconds=0.1,
        )
        self._task = asyncio.create_task(self.scheduler.run())

    def _heard(self, event: Event) -> None:
        if isinstance(event, Progress):
            self.scheduler.progressed(event)
        if isinstance(event, ImagesPassed) and event.n_images:
            self.n_passed[event.job_id] = event.n_images

    @property
    def outcomes(self) -> list[tuple[str, str]]:
        return [(done.model, done.outcome) for done in self.notes.ended]

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.keeper.stop()


async def test_small_drops_overtake_a_long_pass_and_none_of_its_images_is_passed_twice() -> None:
    play = Play()
    try:
        play.scheduler.changed("large", 1.0, frozenset({"cat"}))
        await until(lambda: play.keeper.job is not None)
        for n in range(3):
            play.scheduler.changed("small", 2.0 + n, frozenset({str(n)}))
            await until(lambda: play.outcomes.count(("small", "published")) == n + 1)  # noqa: B023
            assert ("large", "published") not in play.outcomes
        await until(lambda: play.outcomes[-1] == ("large", "published"))
        assert play.outcomes.count(("large", "cancelled")) == 3
        # A new id each time, or the process would have ended each of the later ones at once.
        assert len(play.n_passed) == 4
        assert sum(play.n_passed.values()) == N_IMAGES
    finally:
        await play.end()


async def test_a_trainer_that_is_killed_after_it_was_told_to_make_room_loses_nobodys_change() -> None:
    play = Play()
    try:
        play.scheduler.changed("large", 1.0, frozenset({"cat"}))
        await until(lambda: play.keeper.job is not None and play.keeper.pid is not None)
        play.scheduler.changed("small", 2.0)
        await until(lambda: play.outcomes[:1] == [("large", "cancelled")])
        assert play.keeper.pid is not None
        os.kill(play.keeper.pid, signal.SIGKILL)
        await until(lambda: {("large", "published"), ("small", "published")} <= set(play.outcomes))
        assert play.keeper.restarts == 1
    finally:
        await play.end()
