"""A scheduler at work with a trainer that obeys the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Generic, Protocol, TypeVar

from tlserve.core.errors import SettingsError
from tlserve.core.messages import (
    Compared,
    CompareJob,
    Exported,
    ExportFileJob,
    ExportJob,
    Job,
    PassDone,
    PassJob,
    Progress,
    Recipe,
)
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
        if isinstance(job, ExportFileJob):
            return Exported(job.job_id, job.model, job.version, job.path)
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


class Shows(Protocol):
    """The daemon's board, as far as passes change it."""

    def queued(self, model: str) -> None: ...

    def progressed(self, progress: Progress) -> None: ...

    def ended(self, done: PassDone) -> None: ...


class Notes:
    """What was told of passes. What a board, or the test, does not allow is kept in `wrong`."""

    def __init__(self, board: Shows | None = None) -> None:
        self._board = board
        self.ended: list[PassDone] = []
        self.wrong: list[Exception] = []
        self.when_ended: Callable[[PassRequest, PassDone], None] = lambda request, done: None

    def pass_queued(self, model: str) -> None:
        if self._board is not None:
            self._board.queued(model)

    def progressed(self, progress: Progress) -> None:
        self._try(lambda board: board.progressed(progress))

    async def pass_ended(self, request: PassRequest, done: PassDone) -> None:
        self._try(lambda board: board.ended(done))
        self.ended.append(done)
        try:
            self.when_ended(request, done)
        except Exception as exc:
            self.wrong.append(exc)

    def _try(self, move: Callable[[Shows], None]) -> None:
        if self._board is not None:
            try:
                move(self._board)
            except Exception as exc:
                self.wrong.append(exc)


def job_of(request: PassRequest) -> PassJob:
    return PassJob(
        request.job_id,
        request.model,
        "",
        Recipe("nano"),
        accept_deletions=request.accept_deletions,
        force=request.force,
        noticed_at=request.noticed_at,
        settled_at=request.settled_at,
        touched=None if request.touched is None else tuple(sorted(request.touched)),
        depth=request.depth,
        tuned=request.tuned,
    )


class KeepsJobs(Protocol):
    """A trainer that remembers what it was given."""

    jobs: list[Job]

    async def run(self, job: Job) -> LastEvent: ...

    async def cancel(self, job_id: str) -> None: ...


T = TypeVar("T", bound=KeepsJobs)


class Stage(Generic[T]):
    def __init__(
        self,
        trainer: T,
        models: Sequence[str] = (),
        *,
        reconcile_seconds: float = 1000.0,
        turn_seconds: float = 0.05,
        board: Shows | None = None,
    ) -> None:
        self.trainer, self.notes = trainer, Notes(board)
        self.broken = {"broken"}
        """Models whose settings nobody understands."""
        self.scheduler = Scheduler(
            self.trainer,
            self.notes,
            make_job=self._make_job,
            models=lambda: models,
            reconcile_seconds=reconcile_seconds,
            first_retry_seconds=0.01,
            turn_seconds=turn_seconds,
        )

    def _make_job(self, request: PassRequest) -> PassJob:
        if request.model in self.broken:
            raise SettingsError("model.toml: no such setting")
        return job_of(request)

    @property
    def passes(self) -> list[PassJob]:
        return [job for job in self.trainer.jobs if isinstance(job, PassJob)]

    @property
    def outcomes(self) -> list[tuple[str, str]]:
        """Of all passes so far: model and outcome."""
        return [(done.model, done.outcome) for done in self.notes.ended]

    def progressed(self, progress: Progress) -> None:
        self.notes.progressed(progress)
        self.scheduler.progressed(progress)


@asynccontextmanager
async def playing(stage: Stage[T]) -> AsyncIterator[Stage[T]]:
    """While the scheduler works. The board must not have seen an illegal move."""
    task = asyncio.create_task(stage.scheduler.run())
    try:
        yield stage
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert not stage.notes.wrong


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)
