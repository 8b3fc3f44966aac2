"""A trainer whose passes take work: images that stay passed, and fits that are lost when cut short."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from tlserve.core.errors import TrainerFailed
from tlserve.core.lifecycle import Phase
from tlserve.core.messages import Exported, ExportFileJob, ExportJob, Job, PassDone, PassJob, Progress
from tlserve.schedule.keeper import LastEvent

STEP_SECONDS = 0.005


@dataclass
class Task:
    """What a model's passes have to do, in steps."""

    images: int = 0
    """To pass through the backbone, one a step; what was passed stays so."""
    scan: int = 0
    """Steps of every look."""
    fit: int = 1
    """Steps of every fit."""
    publishing: int = 0
    outcome: str = "published"
    """As in PassDone, or "died": the trainer, at the end of the pass."""
    refine: bool = False
    """Whether what is published is a fast version."""
    images_passed: int = 0
    fit_steps: int = 0


class _ToldToEnd(Exception):
    """The pass is to end."""


class WorkingTrainer:
    """tell: hears progress, as the daemon does."""

    def __init__(self, tasks: dict[str, Task]) -> None:
        self.tasks = tasks
        self.jobs: list[Job] = []
        self.tell: Callable[[Progress], None] = lambda progress: None
        self.when_looked: Callable[[str, tuple[str, ...] | None], None] = lambda model, touched: None
        """Called when a look is complete, with what it was to look at."""
        self._told_to_end: set[str] = set()

    async def cancel(self, job_id: str) -> None:
        self._told_to_end.add(job_id)

    async def run(self, job: Job) -> LastEvent:
        self.jobs.append(job)
        await asyncio.sleep(0)
        if isinstance(job, ExportJob):
            return Exported(job.job_id, job.model, job.live, "")
        if isinstance(job, ExportFileJob):
            return Exported(job.job_id, job.model, job.version, job.path)
        assert isinstance(job, PassJob)
        task = self.tasks[job.model]
        try:
            await self._pass(job, task)
        except _ToldToEnd:
            return PassDone(job.job_id, job.model, "cancelled", "set aside for something more urgent")
        if task.outcome == "died":
            raise TrainerFailed("killed")
        is_fast = task.refine and job.noticed_at is not None
        return PassDone(job.job_id, job.model, task.outcome, "as its task says", refine=is_fast)

    async def _pass(self, job: PassJob, task: Task) -> None:
        await self._phase(job, Phase.SCANNING, task.scan)
        self.when_looked(job.model, job.touched)
        if task.images > task.images_passed:
            self._say(job, Phase.EXTRACTING)
            todo = task.images - task.images_passed
            for done in range(1, todo + 1):
                await asyncio.sleep(STEP_SECONDS)
                task.images_passed += 1
                self._say(job, Phase.EXTRACTING, done, todo)
                self._check(job)
        self._say(job, Phase.TRAINING)
        for _ in range(task.fit):
            task.fit_steps += 1
            await self._step(job)
        await self._phase(job, Phase.JUDGING, 1)
        await self._phase(job, Phase.PUBLISHING, task.publishing)

    async def _phase(self, job: PassJob, phase: Phase, steps: int) -> None:
        self._say(job, phase)
        self._check(job)
        for _ in range(steps):
            await self._step(job)

    async def _step(self, job: PassJob) -> None:
        await asyncio.sleep(STEP_SECONDS)
        self._check(job)

    def _check(self, job: PassJob) -> None:
        if job.job_id in self._told_to_end:
            raise _ToldToEnd

    def _say(self, job: PassJob, phase: Phase, done: int = 0, total: int = 0) -> None:
        self.tell(Progress(job.job_id, job.model, phase, done, total))
