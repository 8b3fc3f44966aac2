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
"""The folders rest for this many times as long as the last look at them took..."""
LONGEST_REST_SECONDS = 3600.0
"""...but never longer than this."""


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

    async def pass_ended(self, request: PassRequest, done: PassDone) -> None: ...


class Scheduler:
    """Hands the trainer one job at a time.

    make_job: turns a request into a job (reads the model's settings; may raise SettingsError); on a thread.
    models: the models to look at in a routine reconcile; on a thread.
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
        self._errand_was_last = False
        self._failures: dict[str, int] = {}
        self._paused: dict[str, tuple[PassRequest, asyncio.TimerHandle]] = {}
        self._wake = asyncio.Event()
        self._look_seconds = 0.0

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
        """Run a job that is no pass (an export, a listing), before or between the waiting passes."""
        done: asyncio.Future[LastEvent] = asyncio.get_running_loop().create_future()
        self._errands.append((job, done))
        self._wake.set()
        return await done

    def looked(self, seconds: float) -> None:
        """A look at an unchanged folder took this long; the next round of looks waits in proportion."""
        self._look_seconds += seconds

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
            for _, retry in self._paused.values():
                retry.cancel()
            for _, done in self._errands:
                done.cancel()

    async def _next(self) -> None:
        urgent = [model for model, request in self._waiting.items() if request.noticed_at is not None]
        # Errands go first, but not all of them before a fresh drop: then they take turns.
        self._errand_was_last = bool(self._errands) and not (urgent and self._errand_was_last)
        if self._errand_was_last:
            await self._run_errand(*self._errands.pop(0))
            return
        model = next(iter(urgent or self._waiting))
        await self._run_pass(self._waiting.pop(model))

    async def _run_errand(self, job: Job, done: asyncio.Future[LastEvent]) -> None:
        if done.cancelled():
            return
        try:
            result = await self._trainer.run(job)
        except Exception as exc:
            if not done.cancelled():
                done.set_exception(exc)
        else:
            if not done.cancelled():
                done.set_result(result)

    async def _run_pass(self, request: PassRequest) -> None:
        # Asked for while an earlier pass of this model ran, it could not be shown as queued then.
        self._watcher.pass_queued(request.model)
        try:
            job = await asyncio.to_thread(self._make_job, request)
            done = await self._trainer.run(job)
            assert isinstance(done, PassDone)
        except TlserveError as exc:
            done = PassDone(request.job_id, request.model, "failed", str(exc), retryable=exc.retryable)
        except Exception as exc:
            log.exception("model %r: the pass could not be run", request.model)
            done = PassDone(
                request.job_id, request.model, "failed", f"unexpected error: {exc!r}", retryable=True
            )
        if done.outcome == "failed" and done.retryable:
            self._retry_later(request)
        else:
            self._failures.pop(request.model, None)
        try:
            await self._watcher.pass_ended(request, done)
        except Exception:
            # One model's trouble must not end the work for all others.
            log.exception("model %r: what the pass ended with could not be acted on", request.model)

    def _queue(self, request: PassRequest) -> PassRequest:
        model = request.model
        if model in self._paused:
            failed, retry = self._paused[model]
            if not request.force and request.noticed_at is None:
                # A routine look is no reason to hurry a pass that keeps failing.
                return failed
            retry.cancel()
            del self._paused[model]
            request = failed.joined(request)
        if model in self._waiting:
            request = self._waiting[model].joined(request)
        self._waiting[model] = request
        self._watcher.pass_queued(model)
        self._wake.set()
        return request

    def _unpause(self, model: str) -> None:
        request, _ = self._paused.pop(model)
        self._queue(request)

    def _retry_later(self, request: PassRequest) -> None:
        if newer := self._waiting.pop(request.model, None):
            request = request.joined(newer)
        failures = self._failures.get(request.model, 0)
        self._failures[request.model] = failures + 1
        pause = min(self._first_retry_seconds * 2**failures, LONGEST_RETRY_SECONDS)
        log.warning("model %r: trying again in %.0f s", request.model, pause)
        # The same job id: if the dead trainer had published already, the retry finds that version.
        timer = asyncio.get_running_loop().call_later(pause, self._unpause, request.model)
        self._paused[request.model] = request, timer

    async def _look_routinely(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            self._look_seconds, began = 0.0, clock()
            try:
                for model in await asyncio.to_thread(self._models):
                    self.look(model)
            except Exception:
                log.exception("the watched folders could not be listed; trying again later")
            while (rest := began + self._rest_seconds() - clock()) > 0:  # noqa: ASYNC110
                # Looks of this round may still be under way and make its rest longer.
                await asyncio.sleep(min(rest, self._reconcile_seconds))

    def _rest_seconds(self) -> float:
        proportion = min(RECONCILE_REST_FACTOR * self._look_seconds, LONGEST_REST_SECONDS)
        return max(self._reconcile_seconds, proportion)


def _new_id() -> str:
    return uuid.uuid4().hex
