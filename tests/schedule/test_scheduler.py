"""Who is next, what is merged, what is tried again: the scheduler with a trainer that obeys the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.schedule.a_stage import ObedientTrainer, Stage, playing, until
from tlserve.core.errors import TrainerFailed
from tlserve.core.messages import Exported, ExportFileJob


@pytest.fixture
async def stage() -> AsyncIterator[Stage[ObedientTrainer]]:
    async with playing(Stage(ObedientTrainer())) as stage:
        yield stage


async def test_every_model_is_looked_at_at_the_start() -> None:
    async with playing(Stage(ObedientTrainer(), ["a", "b"])) as stage:
        await until(lambda: len(stage.notes.ended) == 2)
        assert [job.model for job in stage.passes] == ["a", "b"]
        assert all(job.noticed_at is None for job in stage.passes)


async def test_a_routine_look_comes_again() -> None:
    async with playing(Stage(ObedientTrainer(), ["a"], reconcile_seconds=0.02)) as stage:
        await until(lambda: len(stage.passes) >= 3)


async def test_changes_while_a_pass_runs_become_one_further_pass(stage: Stage[ObedientTrainer]) -> None:
    stage.trainer.gate.clear()
    stage.scheduler.changed("a", 100.0)
    await until(lambda: len(stage.passes) == 1)
    stage.scheduler.changed("a", 105.0)
    stage.scheduler.changed("a", 103.0)
    stage.scheduler.retrain("a", accept_deletions=True)
    stage.trainer.gate.set()
    await until(lambda: len(stage.notes.ended) == 2)
    merged = stage.passes[1]
    assert (merged.noticed_at, merged.force, merged.accept_deletions) == (103.0, True, True)


async def test_an_errand_goes_before_waiting_passes(stage: Stage[ObedientTrainer]) -> None:
    stage.trainer.gate.clear()
    for model in ("a", "b", "c"):
        stage.scheduler.changed(model, 1.0)
    await until(lambda: len(stage.passes) == 1)
    errand = asyncio.create_task(stage.scheduler.errand(ExportFileJob("e", "a", 1, "")))
    await asyncio.sleep(0)
    stage.trainer.gate.set()
    assert isinstance(await errand, Exported)
    await until(lambda: len(stage.notes.ended) == 3)
    assert isinstance(stage.trainer.jobs[1], ExportFileJob)


async def test_a_dead_trainer_gets_the_same_job_again(stage: Stage[ObedientTrainer]) -> None:
    stage.trainer.plan = [TrainerFailed("killed"), TrainerFailed("killed"), "published"]
    stage.scheduler.changed("a", 1.0)
    await until(lambda: len(stage.passes) == 3)
    assert len({job.job_id for job in stage.passes}) == 1
    await until(lambda: [done.outcome for done in stage.notes.ended] == ["failed", "failed", "published"])


async def test_what_a_person_asked_for_survives_a_dead_trainer_and_a_routine_look(
    stage: Stage[ObedientTrainer],
) -> None:
    stage.trainer.plan = [TrainerFailed("killed")]
    job_id = stage.scheduler.retrain("a", accept_deletions=True)
    await until(lambda: len(stage.notes.ended) == 1)
    stage.scheduler.look("a")
    await until(lambda: len(stage.passes) == 2)
    again = stage.passes[1]
    assert (again.job_id, again.accept_deletions, again.force) == (job_id, True, True)


async def test_an_unexpected_error_ends_one_job_and_not_the_scheduler(stage: Stage[ObedientTrainer]) -> None:
    stage.trainer.plan = [ValueError("a defect"), "unchanged"]
    stage.scheduler.changed("a", 1.0)
    await until(lambda: len(stage.notes.ended) == 2)
    assert [done.outcome for done in stage.notes.ended] == ["failed", "unchanged"]
    assert "a defect" in stage.notes.ended[0].reason


async def test_a_fresh_drop_does_not_wait_for_all_errands(stage: Stage[ObedientTrainer]) -> None:
    stage.trainer.gate.clear()
    errands = [
        asyncio.create_task(stage.scheduler.errand(ExportFileJob(str(n), "x", n, ""))) for n in range(3)
    ]
    await until(lambda: len(stage.trainer.jobs) == 1)
    stage.scheduler.changed("a", 1.0)
    stage.trainer.gate.set()
    await asyncio.gather(*errands)
    await until(lambda: len(stage.notes.ended) == 1)
    assert [type(job).__name__ for job in stage.trainer.jobs[:3]] == [
        "ExportFileJob",
        "PassJob",
        "ExportFileJob",
    ]


async def test_the_next_round_of_looks_waits_in_proportion_to_the_last_one() -> None:
    async with playing(Stage(ObedientTrainer(), ["a"], reconcile_seconds=0.02)) as stage:
        await until(lambda: len(stage.passes) == 1)
        stage.scheduler.looked(0.01)
        began = asyncio.get_running_loop().time()
        await until(lambda: len(stage.passes) == 2)
        assert asyncio.get_running_loop().time() - began > 0.2


async def test_a_broken_setting_fails_the_pass_and_is_not_retried(stage: Stage[ObedientTrainer]) -> None:
    stage.scheduler.changed("broken", 1.0)
    await until(lambda: len(stage.notes.ended) == 1)
    assert "no such setting" in stage.notes.ended[0].reason
    stage.scheduler.changed("a", 1.0)
    await until(lambda: len(stage.notes.ended) == 2)
    assert [job.model for job in stage.passes] == ["a"]


async def test_a_pass_that_failed_for_good_waits_for_a_change(stage: Stage[ObedientTrainer]) -> None:
    stage.trainer.plan = ["failed"]
    stage.scheduler.changed("a", 1.0)
    await until(lambda: len(stage.notes.ended) == 1)
    stage.scheduler.changed("a", 2.0)
    await until(lambda: len(stage.notes.ended) == 2)
