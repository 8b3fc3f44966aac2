"""Who is next, what is merged, what is tried again: the scheduler with a trainer that obeys the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from tlserve.core.errors import SettingsError, TrainerFailed
from tlserve.core.messages import (
    Compared,
    CompareJob,
    Exported,
    ExportJob,
    Job,
    PassDone,
    PassJob,
    Recipe,
)
from tlserve.core.plan import Depth
from tlserve.schedule import PassRequest, Scheduler
from tlserve.schedule.keeper import LastEvent


class ObedientTrainer:
    """Does what `plan` says for each pass; holds every job while `gate` is closed."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.plan: list[Exception | str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.told_to_end: set[str] = set()

    async def cancel(self, job_id: str) -> None:
        self.told_to_end.add(job_id)

    async def run(self, job: Job) -> LastEvent:
        self.jobs.append(job)
        while not self.gate.is_set() and job.job_id not in self.told_to_end:
            await asyncio.sleep(0.002)
        ended = job.job_id in self.told_to_end
        if isinstance(job, ExportJob):
            return Exported(job.job_id, job.model, job.live, "")
        if isinstance(job, CompareJob):
            return Compared(job.job_id, "{}", cancelled=ended)
        if ended:
            assert isinstance(job, PassJob)
            return PassDone(job.job_id, job.model, "cancelled", "as told")
        assert isinstance(job, PassJob)
        step = self.plan.pop(0) if self.plan else "unchanged"
        if isinstance(step, Exception):
            raise step
        return PassDone(job.job_id, job.model, step, "as planned")


class Notes:
    def __init__(self) -> None:
        self.ended: list[PassDone] = []

    def pass_queued(self, model: str) -> None: ...

    async def pass_ended(self, request: PassRequest, done: PassDone) -> None:
        self.ended.append(done)


def make_job(request: PassRequest) -> PassJob:
    if request.model == "broken":
        raise SettingsError("model.toml: no such setting")
    return PassJob(
        request.job_id,
        request.model,
        "",
        Recipe("nano"),
        accept_deletions=request.accept_deletions,
        force=request.force,
        noticed_at=request.noticed_at,
        depth=request.depth,
        tuned=request.tuned,
    )


class Stage:
    def __init__(self, models: list[str], reconcile_seconds: float = 1000.0) -> None:
        self.trainer, self.notes = ObedientTrainer(), Notes()
        self.scheduler = Scheduler(
            self.trainer,
            self.notes,
            make_job=make_job,
            models=lambda: models,
            reconcile_seconds=reconcile_seconds,
            first_retry_seconds=0.01,
        )
        self.task = asyncio.create_task(self.scheduler.run())

    @property
    def passes(self) -> list[PassJob]:
        return [job for job in self.trainer.jobs if isinstance(job, PassJob)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage([])
    yield stage
    stage.task.cancel()
    await asyncio.gather(stage.task, return_exceptions=True)


async def test_every_model_is_looked_at_at_the_start() -> None:
    stage = Stage(["a", "b"])
    await until(lambda: len(stage.notes.ended) == 2)
    assert [job.model for job in stage.passes] == ["a", "b"]
    assert all(job.noticed_at is None for job in stage.passes)
    stage.task.cancel()


async def test_a_routine_look_comes_again() -> None:
    stage = Stage(["a"], reconcile_seconds=0.02)
    await until(lambda: len(stage.passes) >= 3)
    stage.task.cancel()


async def test_changes_while_a_pass_runs_become_one_further_pass(stage: Stage) -> None:
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


async def test_an_errand_goes_before_waiting_passes(stage: Stage) -> None:
    stage.trainer.gate.clear()
    for model in ("a", "b", "c"):
        stage.scheduler.changed(model, 1.0)
    await until(lambda: len(stage.passes) == 1)
    errand = asyncio.create_task(stage.scheduler.errand(ExportJob("e", "a", 1)))
    await asyncio.sleep(0)
    stage.trainer.gate.set()
    assert isinstance(await errand, Exported)
    await until(lambda: len(stage.notes.ended) == 3)
    assert isinstance(stage.trainer.jobs[1], ExportJob)


async def test_a_dead_trainer_gets_the_same_job_again(stage: Stage) -> None:
    stage.trainer.plan = [TrainerFailed("killed"), TrainerFailed("killed"), "published"]
    stage.scheduler.changed("a", 1.0)
    await until(lambda: len(stage.passes) == 3)
    assert len({job.job_id for job in stage.passes}) == 1
    await until(lambda: [done.outcome for done in stage.notes.ended] == ["failed", "failed", "published"])


async def test_what_a_person_asked_for_survives_a_dead_trainer_and_a_routine_look() -> None:
    stage = Stage([])
    stage.trainer.plan = [TrainerFailed("killed")]
    job_id = stage.scheduler.retrain("a", accept_deletions=True)
    await until(lambda: len(stage.notes.ended) == 1)
    stage.scheduler.look("a")
    await until(lambda: len(stage.passes) == 2)
    again = stage.passes[1]
    assert (again.job_id, again.accept_deletions, again.force) == (job_id, True, True)
    stage.task.cancel()


async def test_an_unexpected_error_ends_one_job_and_not_the_scheduler(stage: Stage) -> None:
    stage.trainer.plan = [ValueError("a defect"), "unchanged"]
    stage.scheduler.changed("a", 1.0)
    await until(lambda: len(stage.notes.ended) == 2)
    assert [done.outcome for done in stage.notes.ended] == ["failed", "unchanged"]
    assert "a defect" in stage.notes.ended[0].reason


async def test_a_fresh_drop_does_not_wait_for_all_errands(stage: Stage) -> None:
    stage.trainer.gate.clear()
    errands = [asyncio.create_task(stage.scheduler.errand(ExportJob(str(n), "x", n))) for n in range(3)]
    await until(lambda: len(stage.trainer.jobs) == 1)
    stage.scheduler.changed("a", 1.0)
    stage.trainer.gate.set()
    await asyncio.gather(*errands)
    await until(lambda: len(stage.notes.ended) == 1)
    assert [type(job).__name__ for job in stage.trainer.jobs[:3]] == ["ExportJob", "PassJob", "ExportJob"]


async def test_the_next_round_of_looks_waits_in_proportion_to_the_last_one() -> None:
    stage = Stage(["a"], reconcile_seconds=0.02)
    await until(lambda: len(stage.passes) == 1)
    stage.scheduler.looked(0.01)
    began = asyncio.get_running_loop().time()
    await until(lambda: len(stage.passes) == 2)
    assert asyncio.get_running_loop().time() - began > 0.2
    stage.task.cancel()


async def test_a_broken_setting_fails_the_pass_and_is_not_retried(stage: Stage) -> None:
    stage.scheduler.changed("broken", 1.0)
    await until(lambda: len(stage.notes.ended) == 1)
    assert "no such setting" in stage.notes.ended[0].reason
    stage.scheduler.changed("a", 1.0)
    await until(lambda: len(stage.notes.ended) == 2)
    assert [job.model for job in stage.passes] == ["a"]


async def test_a_pass_that_failed_for_good_waits_for_a_change(stage: Stage) -> None:
    stage.trainer.plan = ["failed"]
    stage.scheduler.changed("a", 1.0)
    await until(lambda: len(stage.notes.ended) == 1)
    stage.scheduler.changed("a", 2.0)
    await until(lambda: len(stage.notes.ended) == 2)


async def test_a_study_has_its_turn_when_nothing_else_waits(stage: Stage) -> None:
    stage.trainer.gate.clear()
    stage.scheduler.study("a")
    stage.scheduler.learn_tuned("a", "digest")
    stage.scheduler.look("b")
    await until(lambda: len(stage.passes) == 1)
    stage.trainer.gate.set()
    await until(lambda: len(stage.notes.ended) == 3)
    assert [(job.model, job.depth, job.tuned) for job in stage.passes] == [
        ("b", Depth.QUICK, None),
        ("a", Depth.FULL, None),
        ("a", Depth.ROWS, "digest"),
    ]


async def test_a_fresh_drop_sets_a_study_aside_and_the_study_goes_on_afterwards(stage: Stage) -> None:
    stage.trainer.gate.clear()
    stage.scheduler.study("a")
    await until(lambda: len(stage.passes) == 1)
    stage.scheduler.changed("b", 1.0)
    await until(lambda: len(stage.passes) == 2)
    stage.trainer.gate.set()
    await until(lambda: len(stage.notes.ended) == 3)
    assert [job.depth for job in stage.passes] == [Depth.FULL, Depth.QUICK, Depth.FULL]
    assert [done.outcome for done in stage.notes.ended] == ["cancelled", "unchanged", "unchanged"]
    # The trainer remembers what it was told to end.
    assert stage.passes[0].job_id != stage.passes[2].job_id


async def test_a_routine_look_does_not_set_a_study_aside(stage: Stage) -> None:
    stage.trainer.gate.clear()
    stage.scheduler.study("a")
    await until(lambda: len(stage.passes) == 1)
    stage.scheduler.look("b")
    await asyncio.sleep(0.02)
    assert not stage.trainer.told_to_end
    stage.trainer.gate.set()
    await until(lambda: len(stage.notes.ended) == 2)


async def test_a_study_that_failed_rests_until_something_changes(stage: Stage) -> None:
    stage.trainer.plan = ["failed"]
    stage.scheduler.study("a")
    await until(lambda: len(stage.notes.ended) == 1)
    stage.scheduler.study("a")
    stage.scheduler.look("a")
    await until(lambda: len(stage.notes.ended) == 2)
    assert [job.depth for job in stage.passes] == [Depth.FULL, Depth.QUICK]
    stage.scheduler.changed("a", 1.0)
    stage.scheduler.study("a")
    await until(lambda: len(stage.notes.ended) == 4)
    assert stage.passes[-1].depth is Depth.FULL


async def test_a_long_errand_is_set_aside_and_answers_in_the_end(stage: Stage) -> None:
    stage.trainer.gate.clear()
    errand = asyncio.create_task(
        stage.scheduler.background_errand(CompareJob("c", "a", "", Recipe("nano"), ("nano",)))
    )
    await until(lambda: len(stage.trainer.jobs) == 1)
    stage.scheduler.changed("b", 1.0)
    await until(lambda: len(stage.passes) == 1)
    stage.trainer.gate.set()
    told = await errand
    assert isinstance(told, Compared)
    assert not told.cancelled
    assert [type(job) for job in stage.trainer.jobs] == [CompareJob, PassJob, CompareJob]


async def test_a_study_makes_room_for_what_a_person_asked_for(stage: Stage) -> None:
    stage.trainer.gate.clear()
    stage.scheduler.study("a")
    await until(lambda: len(stage.passes) == 1)
    errand = asyncio.create_task(
        stage.scheduler.background_errand(CompareJob("c", "a", "", Recipe("nano"), ("nano",)))
    )
    await until(lambda: len(stage.trainer.jobs) == 2)
    stage.scheduler.look("b", asked=True)
    await until(lambda: len(stage.trainer.jobs) == 3)
    stage.trainer.gate.set()
    await errand
    await until(lambda: len(stage.trainer.jobs) == 5)
    kinds = [job.depth if isinstance(job, PassJob) else type(job) for job in stage.trainer.jobs]
    assert kinds == [Depth.FULL, CompareJob, Depth.QUICK, CompareJob, Depth.FULL]


async def test_a_long_errand_ends_when_nobody_waits_for_it(stage: Stage) -> None:
    stage.trainer.gate.clear()
    job = CompareJob("c", "a", "", Recipe("nano"), ("nano",))
    errand = asyncio.create_task(stage.scheduler.background_errand(job))
    await until(lambda: len(stage.trainer.jobs) == 1)
    errand.cancel()
    await until(lambda: "c" in stage.trainer.told_to_end)
    stage.scheduler.look("b")
    await until(lambda: len(stage.passes) == 1)
    assert [type(one) for one in stage.trainer.jobs] == [CompareJob, PassJob]


async def test_a_patient_errand_lets_a_study_go_on(stage: Stage) -> None:
    stage.trainer.gate.clear()
    stage.scheduler.study("a")
    await until(lambda: len(stage.passes) == 1)
    errand = asyncio.create_task(stage.scheduler.errand(ExportJob("e", "a", 1), patient=True))
    await asyncio.sleep(0.02)
    assert not stage.trainer.told_to_end
    stage.trainer.gate.set()
    await errand
