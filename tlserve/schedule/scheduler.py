"""Which model's pass is next: one pass at a time, changes merged, failures retried with growing pauses.

Everything happens in the event loop; `changed` and `retrain` only note a wish and wake the runner. A
newer wish for a model supersedes the queued one, and joins it rather than replacing what it asked for.

Work in the background (the search for a better version, see `background`) has its turn when nothing else
waits, and is set aside the moment a person or a changed folder wants something.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from tlserve.core.errors import TlserveError
from tlserve.core.messages import Compared, Job, PassDone, PassJob
from tlserve.core.plan import Depth
from tlserve.schedule.background import Background, Chore
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
    depth: Depth = Depth.QUICK
    tuned: str | None = None
    """Digest of a fine-tuned build to learn on."""
    asked: bool = False
    """By a person, who changed what the pass depends on."""

    @property
    def is_urgent(self) -> bool:
        """Whether somebody waits for it, rather than that it is time for a routine look."""
        return self.force or self.asked or self.noticed_at is not None

    def joined(self, newer: PassRequest) -> PassRequest:
        """Both wishes as one: the earliest notice and everything that either asked for."""
        noticed = [at for at in (self.noticed_at, newer.noticed_at) if at is not None]
        return replace(
            self,
            noticed_at=min(noticed, default=None),
            accept_deletions=self.accept_deletions or newer.accept_deletions,
            force=self.force or newer.force,
            asked=self.asked or newer.asked,
        )


class Works(Protocol):
    """The trainer, as the scheduler sees it."""

    async def run(self, job: Job) -> LastEvent: ...

    async def cancel(self, job_id: str) -> None: ...


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
        self._background: Background[PassRequest] = Background()
        self._failures: dict[str, int] = {}
        self._paused: dict[str, tuple[PassRequest, asyncio.TimerHandle]] = {}
        self._wake = asyncio.Event()
        self._cancelling: set[asyncio.Future[None]] = set()
        self._look_seconds = 0.0

    def changed(self, model: str, noticed_at: float) -> None:
        """The model's folder changed and is quiet now."""
        self._failures.pop(model, None)
        self._queue(PassRequest(_new_id(), model, noticed_at))

    def retrain(self, model: str, *, accept_deletions: bool) -> str:
        """A person asks for a pass; returns the id of the job that will do it."""
        self._failures.pop(model, None)
        return self._queue(PassRequest(_new_id(), model, None, accept_deletions, force=True)).job_id

    def look(self, model: str, *, asked: bool = False) -> None:
        """A routine look at one model's folder; asked: a person changed something and waits for it."""
        if asked:
            self._failures.pop(model, None)
        self._queue(PassRequest(_new_id(), model, asked=asked))

    def study(self, model: str) -> None:
        """Look for a better version of a model in the background, unless that failed a moment ago."""
        self._background.add(PassRequest(_new_id(), model, depth=Depth.FULL), name=f"study {model}")
        self._wake.set()

    def learn_tuned(self, model: str, build: str) -> None:
        """Learn a model anew, in the background, on a build that was fine-tuned for it."""
        request = PassRequest(_new_id(), model, depth=Depth.ROWS, tuned=build)
        self._background.add(request, name=f"tuned {model}")
        self._wake.set()

    async def errand(self, job: Job, *, patient: bool = False) -> LastEvent:
        """Run a job that is no pass (an export, a listing), before or between the waiting passes.

        patient: it is not worth setting aside what runs in the background.
        """
        done: asyncio.Future[LastEvent] = asyncio.get_running_loop().create_future()
        self._errands.append((job, done))
        self._wake.set()
        if not patient:
            self._set_aside()
        return await done

    async def background_errand(self, job: Job) -> LastEvent:
        """Run a long job that is no pass when nothing else waits; it is set aside as often as need be."""
        done: asyncio.Future[LastEvent] = asyncio.get_running_loop().create_future()
        self._background.add_errand(job, done)
        self._wake.set()
        if self._background.waited_for is None:
            self._set_aside()
        try:
            return await done
        except asyncio.CancelledError:
            # Nobody waits for it any more; if it runs now, it ends.
            if self._background.waited_for is done:
                self._set_aside()
            raise

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
                while self._errands or self._waiting or self._background:
                    await self._next()
        finally:
            routine.cancel()
            for _, retry in self._paused.values():
                retry.cancel()
            for _, done in self._errands:
                done.cancel()
            self._background.close()

    async def _next(self) -> None:
        if not self._errands and not self._waiting:
            await self._run_chore(self._background.take())
            return
        urgent = [model for model, request in self._waiting.items() if request.noticed_at is not None]
        # Errands go first, but not all of them before a fresh drop: then they take turns.
        self._errand_was_last = bool(self._errands) and not (urgent and self._errand_was_last)
        if self._errand_was_last:
            await self._run_errand(*self._errands.pop(0))
            return
        model = next(iter(urgent or self._waiting))
        await self._run_pass(self._waiting.pop(model))

    async def _run_errand(
        self, job: Job, done: asyncio.Future[LastEvent], again: Callable[[], None] = lambda: None
    ) -> None:
        """again: called instead of answering when the job was set aside."""
        if done.cancelled():
            return
        try:
            result = await self._trainer.run(job)
        except Exception as exc:
            if not done.cancelled():
                done.set_exception(exc)
        else:
            if isinstance(result, Compared) and result.cancelled:
                again()
            elif not done.cancelled():
                done.set_result(result)

    async def _run_chore(self, chore: Chore[PassRequest]) -> None:
        """Work in the background; what was set aside is put back, what failed rests a while."""
        request = chore.request
        if request is None:
            assert chore.job is not None and chore.done is not None
            with self._background.running(chore.job.job_id, chore.done):
                # A new id each time: the trainer remembers what it was told to end.
                anew = replace(chore, job=replace(chore.job, job_id=_new_id()))
                await self._run_errand(chore.job, chore.done, again=lambda: self._background.put_back(anew))
            return
        with self._background.running(request.job_id):
            done = await self._done_with(request)
        if done.outcome == "cancelled":
            self._background.put_back(replace(chore, request=replace(request, job_id=_new_id())))
        elif done.outcome == "failed":
            rest = self._background.failed(chore)
            log.warning("model %r: the search for a better version rests for %.0f s", request.model, rest)
        else:
            self._background.forgive(request.model)
        await self._tell_end(request, done)

    def _set_aside(self) -> None:
        """Have the work in the background make room, if there is any at the moment."""
        job_id = self._background.job_id
        if job_id is not None:
            self._background.must_end = True
            task = asyncio.ensure_future(self._trainer.cancel(job_id))
            self._cancelling.add(task)
            task.add_done_callback(self._cancelling.discard)

    async def _run_pass(self, request: PassRequest) -> None:
        done = await self._done_with(request)
        if done.outcome == "failed" and done.retryable:
            self._retry_later(request)
        else:
            self._failures.pop(request.model, None)
        await self._tell_end(request, done)

    async def _done_with(self, request: PassRequest) -> PassDone:
        # Asked for while an earlier pass of this model ran, it could not be shown as queued then.
        self._watcher.pass_queued(request.model)
        try:
            job = await asyncio.to_thread(self._make_job, request)
            if self._background.job_id == request.job_id and self._background.must_end:
                return PassDone(request.job_id, request.model, "cancelled", "set aside")
            done = await self._trainer.run(job)
            assert isinstance(done, PassDone)
        except TlserveError as exc:
            return PassDone(request.job_id, request.model, "failed", str(exc), retryable=exc.retryable)
        except Exception as exc:
            log.exception("model %r: the pass could not be run", request.model)
            words = f"unexpected error: {exc!r}"
            return PassDone(request.job_id, request.model, "failed", words, retryable=True)
        return done

    async def _tell_end(self, request: PassRequest, done: PassDone) -> None:
        try:
            await self._watcher.pass_ended(request, done)
        except Exception:
            # One model's trouble must not end the work for all others.
            log.exception("model %r: what the pass ended with could not be acted on", request.model)

    def _queue(self, request: PassRequest) -> PassRequest:
        model = request.model
        if model in self._paused:
            failed, retry = self._paused[model]
            if not request.is_urgent:
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
        if request.is_urgent:
            self._background.forgive(model)
            self._set_aside()
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
