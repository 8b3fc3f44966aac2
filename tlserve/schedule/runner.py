"""Carries out what is next: hands the trainer one job, and sees to what its end means."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from tlserve.core.errors import TlserveError
from tlserve.core.messages import Compared, Job, PassDone, PassJob
from tlserve.schedule.background import Background, Chore, refinement_of
from tlserve.schedule.keeper import LastEvent
from tlserve.schedule.line import Errand, Line
from tlserve.schedule.requests import NOTHING, PassRequest, Touched, all_touched, next_id
from tlserve.schedule.retries import Retries
from tlserve.schedule.stage import Stage
from tlserve.schedule.turns import Turn

log = logging.getLogger("tlserve.schedule")

_LOOKED = ("published", "unchanged", "waiting")
"""Outcomes of passes that looked at all they were to look at."""


class Works(Protocol):
    """The trainer, as the scheduler sees it."""

    async def run(self, job: Job) -> LastEvent: ...

    async def cancel(self, job_id: str) -> None: ...


class Watches(Protocol):
    """Whoever wants to know how passes fare; called in the event loop."""

    def pass_queued(self, model: str) -> None: ...

    async def pass_ended(self, request: PassRequest, done: PassDone) -> None: ...


class Runner:
    """One job at a time. make_job: see `Scheduler`. turn_seconds: what a pass works undisturbed at least."""

    def __init__(
        self,
        trainer: Works,
        watcher: Watches,
        *,
        make_job: Callable[[PassRequest], PassJob],
        line: Line,
        background: Background,
        retries: Retries,
        stage: Stage,
        turn_seconds: float,
    ) -> None:
        self._trainer, self._watcher, self._make_job = trainer, watcher, make_job
        self._line, self._background, self._retries, self._stage = line, background, retries, stage
        self._turn_seconds = turn_seconds
        self._owed: dict[str, Touched] = {}
        """By model: what passes that failed for good were to look at, and the next one has to."""

    async def run_next(self) -> None:
        """Run whatever is next to its end. Something must be waiting."""
        if not self._line:
            await self._run_chore(self._background.take())
        elif isinstance(waiting := self._line.take(), Errand):
            await self._run_errand(waiting.job, waiting.done)
        else:
            await self._run_pass(waiting)

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

    async def _run_chore(self, chore: Chore) -> None:
        """Work in the background; what was set aside is put back, what failed rests a while."""
        request = chore.request
        if request is None:
            await self._run_long_errand(chore)
            return
        turn = self._turn(request.job_id, request, in_background=True)
        done = await self._done_with(request, turn)
        if done.outcome == "cancelled":
            self._background.put_back(replace(chore, request=turn.set_aside(_now())))
        elif done.outcome == "failed":
            rest = self._background.failed(chore)
            log.warning("model %r: %s rests for %.0f s", request.model, chore.purpose, rest)
        else:
            self._background.forgive(request.model)
        await self._tell_end(request, done)

    async def _run_long_errand(self, chore: Chore) -> None:
        assert chore.job is not None and chore.done is not None
        # A new id each time: the trainer remembers what it was told to end.
        anew = replace(chore, job=replace(chore.job, job_id=next_id(chore.job.job_id)))
        with self._stage.of(self._turn(chore.job.job_id, waited_for=chore.done, in_background=True)):
            await self._run_errand(chore.job, chore.done, again=lambda: self._background.put_back(anew))

    async def _run_pass(self, request: PassRequest) -> None:
        turn = self._turn(request.job_id, request)
        done = await self._done_with(request, turn)
        if done.outcome == "cancelled":
            self._line.put_back(turn.set_aside(_now()))
        elif done.outcome == "failed" and done.retryable:
            self._retry_later(request)
        else:
            self._retries.forgive(request.model)
            if done.outcome not in _LOOKED:
                self._owe(request.model, request.touched)
        await self._tell_end(request, done)

    async def _done_with(self, request: PassRequest, turn: Turn) -> PassDone:
        model = request.model
        # Asked for while an earlier pass of this model ran, it could not be shown as queued then.
        self._watcher.pass_queued(model)
        owed = self._owed.pop(model, NOTHING)
        with self._stage.of(turn):
            whole = replace(request, touched=all_touched(request.touched, owed))
            done = await self._result_of(whole, turn)
        if done.outcome not in _LOOKED:
            self._owe(model, owed)
        return done

    async def _result_of(self, request: PassRequest, turn: Turn) -> PassDone:
        job_id, model = request.job_id, request.model
        try:
            job = await asyncio.to_thread(self._make_job, request)
            if turn.must_end:
                return PassDone(job_id, model, "cancelled", "set aside for something more urgent")
            done = await self._trainer.run(job)
            assert isinstance(done, PassDone)
        except TlserveError as exc:
            return PassDone(job_id, model, "failed", str(exc), retryable=exc.retryable)
        except Exception as exc:
            log.exception("model %r: the pass could not be run", model)
            return PassDone(job_id, model, "failed", f"unexpected error: {exc!r}", retryable=True)
        return done

    def _turn(
        self,
        job_id: str,
        request: PassRequest | None = None,
        *,
        in_background: bool = False,
        waited_for: asyncio.Future[LastEvent] | None = None,
    ) -> Turn:
        seconds = self._turn_seconds
        return Turn(job_id, _now(), seconds, request, in_background=in_background, waited_for=waited_for)

    async def _tell_end(self, request: PassRequest, done: PassDone) -> None:
        if done.outcome == "published":
            # Of the version before; if this one is fast too, its own refinement is asked for now.
            self._background.drop(refinement_of(request.model))
        try:
            await self._watcher.pass_ended(request, done)
        except Exception:
            # One model's trouble must not end the work for all others.
            log.exception("model %r: what the pass ended with could not be acted on", request.model)
        if request.model in self._line:
            self._watcher.pass_queued(request.model)

    def _retry_later(self, request: PassRequest) -> None:
        # The same job id: if the dead trainer had published already, the retry finds that version.
        request = replace(request, tried=True)
        if newer := self._line.pop(request.model):
            request = request.joined(newer)
        pause = self._retries.later(request)
        log.warning("model %r: trying again in %.0f s", request.model, pause)

    def _owe(self, model: str, touched: Touched) -> None:
        owed = all_touched(self._owed.get(model, NOTHING), touched)
        if owed != NOTHING:
            self._owed[model] = owed


def _now() -> float:
    return asyncio.get_running_loop().time()
