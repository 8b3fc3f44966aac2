"""Which model's pass is next: one pass at a time, changes merged, failures retried with growing pauses.

Everything happens in the event loop; `changed` and `retrain` only note a wish and wake the runner. A
newer wish for a model supersedes the queued one, and joins it rather than replacing what it asked for.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from tlserve.core.errors import TlserveError
from tlserve.core.messages import Job, PassDone, PassJob
from tlserve.schedule.keeper import LastEvent

log = logging.getLogger("tlserve.schedule")

FIRST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 300.0
RECONCILE_REST_FACTOR = 50
"""The folders rest for this many times as long as the last look at them took."""


@dataclass(frozen=True, slots=True)
class PassRequest:
    """A wish for one pass over a model's folder."""

    job_id: str
    model: str
    noticed_at: float | None = None
    """Unix time of the first change behind it; None for a routine look."""
    accept_deletions: bool = False
    force: bool = False

    def joined(self, newer: PassRequest) -> PassRequest:
        """Both wishes as one: the earliest notice and everything that either asked for."""
        noticed = [at for at in (self.noticed_at, newer.noticed_at) if at is not None]
        return replace(
            self,
            noticed_at=min(noticed, default=None),
            accept_deletions=self.accept_deletions or newer.accept_deletions,
            force=self.force or newer.force,
        )


class Works(Protocol):
    """The trainer, as the scheduler sees it."""

    async def run(self, job: Job) -> LastEvent: ...


class Watches(Protocol):
    """Whoever wants to know how passes fare; called in the event loop."""

    def pass_queued(self, model: str) -> None: ...

    async def pass_ended(self, job: PassJob, done: PassDone) -> None: ...


class Scheduler:
    """Hands the trainer one job at a time.

    make_job: turns a request into a job (reads the model's settings; may raise SettingsError).
    models: the models to look at in a routine reconcile.
    """

    def __init__(
        self,
        trainer: Works,
        watcher: Watches,
        *,
        make_job: Callable[[PassRequest], PassJob],
        models: Callable[[], Sequence[str]],
        reconcile_seconds: float,
        first_retry_seconds: float = FIRST_RETRY_SECONDS,
    ) -> None:
        self._trainer = trainer
        self._watcher = watcher
        self._make_job = make_job
        self._models = models
        self._reconcile_seconds = reconcile_seconds
        self._first_retry_seconds = first_retry_seconds
        self._waiting: dict[str, PassRequest] = {}
        self._errands: list[tuple[Job, asyncio.Future[LastEvent]]] = []
        self._failures: dict[str, int] = {}
        self._retries: dict[str, asyncio.TimerHandle] = {}
        self._wake = asyncio.Event()
        self._last_look_seconds = 0.0

    def changed(self, model: str, noticed_at: float) -> None:
        """The model's folder changed and is quiet now."""
        self._failures.pop(model, None)
        self._queue(PassRequest(_new_id(), model, noticed_at))

    def retrain(self, model: str, *, accept_deletions: bool) -> str:
        """A person asks for a pass; returns the id of the job that will do it."""
        self._failures.pop(model, None)
        return self._queue(PassRequest(_new_id(), model, None, accept_deletions, force=True)).job_id

    def look(self, model: str) -> None:
        """A routine look at one model's folder."""
        self._queue(PassRequest(_new_id(), model))

    async def errand(self, job: Job) -> LastEvent:
        """Run a job that is no pass (an export, a listing) before the waiting passes."""
        done: asyncio.Future[LastEvent] = asyncio.get_running_loop().create_future()
        self._errands.append((job, done))
        self._wake.set()
        return await done

    def looked(self, seconds: float) -> None:
        """A reconcile took this long; the next routine one waits in proportion."""
        self._last_look_seconds += seconds

    async def run(self) -> None:
        """Work until cancelled."""
        routine = asyncio.create_task(self._look_routinely(), name="routine reconcile")
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._errands or self._waiting:
                    await self._next()
        finally:
            routine.cancel()
            for retry in self._retries.values():
                retry.cancel()
            for _, done in self._errands:
                done.cancel()

    async def _next(self) -> None:
        if self._errands:
            await self._run_errand(*self._errands.pop(0))
            return
        model = next(iter(self._waiting))
        await self._run_pass(self._waiting.pop(model))

    async def _run_errand(self, job: Job, done: asyncio.Future[LastEvent]) -> None:
        if done.cancelled():
            return
        try:
            result = await self._trainer.run(job)
        except TlserveError as exc:
            if not done.cancelled():
                done.set_exception(exc)
        else:
            if not done.cancelled():
                done.set_result(result)

    async def _run_pass(self, request: PassRequest) -> None:
        job: PassJob | None = None
        # Asked for while an earlier pass of this model ran, it could not be shown as queued then.
        self._watcher.pass_queued(request.model)
        try:
            job = self._make_job(request)
            done = await self._trainer.run(job)
            assert isinstance(done, PassDone)
        except TlserveError as exc:
            done = PassDone(request.job_id, request.model, "failed", str(exc), retryable=exc.retryable)
        if job is None:
            job = PassJob(request.job_id, request.model, "", recipe=None)  # type: ignore[arg-type]
        if done.outcome == "failed" and done.retryable:
            self._retry_later(request)
        else:
            self._failures.pop(request.model, None)
        try:
            await self._watcher.pass_ended(job, done)
        except TlserveError as exc:
            log.error("model %r: %s", request.model, exc)

    def _queue(self, request: PassRequest) -> PassRequest:
        waiting = self._waiting.get(request.model)
        joined = waiting.joined(request) if waiting else request
        self._waiting[request.model] = joined
        if retry := self._retries.pop(request.model, None):
            retry.cancel()
        self._watcher.pass_queued(request.model)
        self._wake.set()
        return joined

    def _retry_later(self, request: PassRequest) -> None:
        failures = self._failures.get(request.model, 0)
        self._failures[request.model] = failures + 1
        pause = min(self._first_retry_seconds * 2**failures, LONGEST_RETRY_SECONDS)
        log.warning("model %r: trying again in %.0f s", request.model, pause)
        # The same job id: if the dead trainer had published already, the retry finds that version.
        self._retries[request.model] = asyncio.get_running_loop().call_later(pause, self._queue, request)

    async def _look_routinely(self) -> None:
        while True:
            self._last_look_seconds = 0.0
            for model in self._models():
                self.look(model)
            await asyncio.sleep(self._reconcile_seconds)
            # Busy models make a look long; give the machine its rest before the next one.
            rest = RECONCILE_REST_FACTOR * self._last_look_seconds - self._reconcile_seconds
            await asyncio.sleep(max(0.0, rest))


def _new_id() -> str:
    return uuid.uuid4().hex
