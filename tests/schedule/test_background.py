"""What has its turn when nothing else waits, and makes room the moment something does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.schedule.a_stage import ObedientTrainer, Stage, playing, until
from tlserve.core.messages import Compared, CompareJob, ExportFileJob, ExportJob, PassJob, Recipe
from tlserve.core.plan import Depth


@pytest.fixture
async def stage() -> AsyncIterator[Stage[ObedientTrainer]]:
    async with playing(Stage(ObedientTrainer())) as stage:
        yield stage


async def test_a_study_has_its_turn_when_nothing_else_waits(stage: Stage[ObedientTrainer]) -> None:
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


async def test_a_fresh_drop_sets_a_study_aside_which_goes_on_afterwards(
    stage: Stage[ObedientTrainer],
) -> None:
    stage.trainer.gate.clear()
    stage.scheduler.study("a")
    await until(lambda: len(stage.passes) == 1)
    stage.scheduler.changed("b", 1.0)
    await until(lambda: len(stage.passes) == 2)
    stage.trainer.gate.set()
    await until(lambda: len(stage.notes.ended) == 3)
    assert [job.depth for job in stage.passes] == [Depth.FULL, Depth.INSTANT, Depth.FULL]
    assert [done.outcome for done in stage.notes.ended] == ["cancelled", "unchanged", "unchanged"]
    # The trainer remembers what it was told to end.
    assert stage.passes[0].job_id != stage.passes[2].job_id


async def test_a_routine_look_does_not_set_a_study_aside(stage: Stage[ObedientTrainer]) -> None:
    stage.trainer.gate.clear()
    stage.scheduler.study("a")
    await until(lambda: len(stage.passes) == 1)
    stage.scheduler.look("b")
    await asyncio.sleep(0.02)
    assert not stage.trainer.told_to_end
    stage.trainer.gate.set()
    await until(lambda: len(stage.notes.ended) == 2)


async def test_a_study_that_failed_rests_until_something_changes(stage: Stage[ObedientTrainer]) -> None:
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


async def test_a_long_errand_is_set_aside_and_answers_in_the_end(stage: Stage[ObedientTrainer]) -> None:
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


async def test_a_study_makes_room_for_what_a_person_asked_for(stage: Stage[ObedientTrainer]) -> None:
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


async def test_a_long_errand_ends_when_nobody_waits_for_it(stage: Stage[ObedientTrainer]) -> None:
    stage.trainer.gate.clear()
    job = CompareJob("c", "a", "", Recipe("nano"), ("nano",))
    errand = asyncio.create_task(stage.scheduler.background_errand(job))
    await until(lambda: len(stage.trainer.jobs) == 1)
    errand.cancel()
    await until(lambda: "c" in stage.trainer.told_to_end)
    stage.scheduler.look("b")
    await until(lambda: len(stage.passes) == 1)
    assert [type(one) for one in stage.trainer.jobs] == [CompareJob, PassJob]


async def test_a_patient_errand_lets_a_study_go_on(stage: Stage[ObedientTrainer]) -> None:
    stage.trainer.gate.clear()
    stage.scheduler.study("a")
    await until(lambda: len(stage.passes) == 1)
    errand = asyncio.create_task(stage.scheduler.errand(ExportFileJob("e", "a", 1, ""), patient=True))
    await asyncio.sleep(0.02)
    assert not stage.trainer.told_to_end
    stage.trainer.gate.set()
    await errand


async def test_a_refinement_goes_after_everything_urgent_and_exports_and_before_long_errands_and_studies(
    stage: Stage[ObedientTrainer],
) -> None:
    stage.trainer.gate.clear()
    stage.scheduler.look("first")
    await until(lambda: len(stage.passes) == 1)
    stage.scheduler.study("a")
    compare = CompareJob("c", "a", "", Recipe("nano"), ("nano",))
    errands = [asyncio.create_task(stage.scheduler.background_errand(compare))]
    stage.scheduler.refine("a")
    errands.append(asyncio.create_task(stage.scheduler.errand(ExportJob("e", "a", 1))))
    stage.scheduler.changed("b", 1.0)
    await asyncio.sleep(0)
    stage.trainer.gate.set()
    await asyncio.gather(*errands)
    await until(lambda: len(stage.notes.ended) == 4)
    told = [
        (job.model, job.depth) if isinstance(job, PassJob) else type(job).__name__
        for job in stage.trainer.jobs
    ]
    assert told[1:] == [
        ("b", Depth.INSTANT),
        "ExportJob",
        ("a", Depth.QUICK),
        "CompareJob",
        ("a", Depth.FULL),
    ]
    assert stage.passes[2].touched == ()


async def test_a_refinement_makes_room_at_once_and_the_next_fast_version_brings_its_own(
    stage: Stage[ObedientTrainer],
) -> None:
    stage.notes.when_ended = lambda request, done: (
        stage.scheduler.refine("a") if request.depth is Depth.INSTANT else None
    )
    stage.trainer.plan = ["published", "published", "published"]
    stage.trainer.gate.clear()
    stage.scheduler.refine("a")
    await until(lambda: len(stage.passes) == 1)
    stage.scheduler.changed("a", 1.0)
    await until(lambda: len(stage.passes) == 2)
    stage.trainer.gate.set()
    await until(lambda: len(stage.notes.ended) == 3)
    assert [done.outcome for done in stage.notes.ended] == ["cancelled", "published", "published"]
    assert [job.depth for job in stage.passes] == [Depth.QUICK, Depth.INSTANT, Depth.QUICK]
    # Anew, and not the one that was set aside.
    assert stage.passes[2].job_id != f"{stage.passes[0].job_id}-2"


async def test_a_version_that_needs_no_refinement_makes_an_older_one_needless(
    stage: Stage[ObedientTrainer],
) -> None:
    stage.trainer.plan = ["published"]
    stage.trainer.gate.clear()
    stage.scheduler.refine("a")
    await until(lambda: len(stage.passes) == 1)
    stage.scheduler.changed("a", 1.0)
    stage.scheduler.study("b")
    await until(lambda: len(stage.passes) == 2)
    stage.trainer.gate.set()
    await until(lambda: len(stage.notes.ended) == 3)
    assert [job.depth for job in stage.passes] == [Depth.QUICK, Depth.INSTANT, Depth.FULL]


async def test_a_refinement_goes_on_after_a_change_that_changed_nothing(
    stage: Stage[ObedientTrainer],
) -> None:
    stage.trainer.gate.clear()
    stage.scheduler.refine("a")
    await until(lambda: len(stage.passes) == 1)
    stage.scheduler.changed("a", 1.0)
    await until(lambda: len(stage.passes) == 2)
    stage.trainer.gate.set()
    await until(lambda: len(stage.notes.ended) == 3)
    assert stage.passes[2].job_id == f"{stage.passes[0].job_id}-2"
    assert stage.passes[2].depth is Depth.QUICK


async def test_a_comparison_lets_a_refinement_end_and_sets_a_study_aside(
    stage: Stage[ObedientTrainer],
) -> None:
    stage.trainer.gate.clear()
    stage.scheduler.refine("a")
    await until(lambda: len(stage.passes) == 1)
    compare = CompareJob("c", "a", "", Recipe("nano"), ("nano",))
    errand = asyncio.create_task(stage.scheduler.background_errand(compare))
    await asyncio.sleep(0.02)
    assert not stage.trainer.told_to_end
    stage.trainer.gate.set()
    await errand
    assert [type(job) for job in stage.trainer.jobs] == [PassJob, CompareJob]
