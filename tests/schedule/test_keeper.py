"""The keeper against a real child process that obeys, dies, talks rubbish or never starts."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import pytest

from tlserve.core.errors import TrainerFailed
from tlserve.core.messages import Event, PassDone, PassJob, Progress, Recipe
from tlserve.schedule import TrainerKeeper

COMMAND = [sys.executable, "-m", "tests.schedule.a_trainer"]


def job(model: str, job_id: str = "j1") -> PassJob:
    return PassJob(job_id, model, f"/watch/{model}", Recipe("nano"))


@pytest.fixture
def heard() -> list[Event]:
    return []


@pytest.fixture
async def keeper(heard: list[Event]) -> AsyncIterator[TrainerKeeper]:
    keeper = TrainerKeeper(COMMAND, heard.append)
    yield keeper
    await keeper.stop()


async def test_a_job_runs_and_its_events_are_heard(keeper: TrainerKeeper, heard: list[Event]) -> None:
    done = await keeper.run(job("ok"))
    assert isinstance(done, PassDone)
    assert done.version == 1
    assert [type(event).__name__ for event in heard] == ["TrainerReady", "Progress", "PassDone"]


async def test_a_dead_trainer_fails_its_job_with_its_last_words_and_the_next_job_runs(
    keeper: TrainerKeeper,
) -> None:
    with pytest.raises(TrainerFailed, match=r"signal 9.*about to die"):
        await keeper.run(job("die"))
    assert (await keeper.run(job("ok", "j2"))).job_id == "j2"
    assert keeper.restarts == 1


async def test_rubbish_on_the_pipe_is_passed_over(keeper: TrainerKeeper) -> None:
    assert isinstance(await keeper.run(job("noise")), PassDone)


async def test_a_cancelled_wait_cancels_the_job_and_frees_the_trainer(
    keeper: TrainerKeeper, heard: list[Event]
) -> None:
    waiting = asyncio.create_task(keeper.run(job("slow")))
    async with asyncio.timeout(20):
        while not any(isinstance(event, Progress) for event in heard):
            await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (await keeper.run(job("ok", "j2"))).job_id == "j2"


async def test_a_job_that_is_cancelled_before_the_process_is_there_ends_when_it_is(
    keeper: TrainerKeeper,
) -> None:
    waiting = asyncio.create_task(keeper.run(job("slow")))
    await asyncio.sleep(0)
    assert keeper.pid is None
    await keeper.cancel("j1")
    done = await asyncio.wait_for(waiting, 20)
    assert isinstance(done, PassDone)
    assert done.outcome == "cancelled"


async def test_a_trainer_that_does_not_start_says_why() -> None:
    keeper = TrainerKeeper([*COMMAND, "refuse"], lambda event: None)
    with pytest.raises(TrainerFailed, match=r"exit code 3.*no backbone, no training"):
        await keeper.run(job("ok"))
    await keeper.stop()


async def test_stopping_ends_the_process_and_refuses_further_jobs(keeper: TrainerKeeper) -> None:
    await keeper.run(job("ok"))
    assert keeper.pid is not None
    await keeper.stop()
    assert keeper.pid is None
    with pytest.raises(TrainerFailed, match="being stopped"):
        await keeper.run(job("ok", "j2"))
