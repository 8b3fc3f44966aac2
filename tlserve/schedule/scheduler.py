"""Which model's pass is next: one pass at a time, changes merged, failures retried with growing pauses.

Everything happens in the event loop; `changed` and `retrain` only note a wish and wake the runner. A
newer wish for a model supersedes the queued one, and joins it rather than replacing what it asked for.

A long pass makes room for another model's change once it had its turn, and goes on later; work in the
background (refinements, the search for a better version) makes room the moment a person or a changed folder
wants something. `line`, `background` and `turns` decide, `runner` carries out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from tlserve.core.messages import ExportJob, Job, PassJob, Progress
from tlserve.core.plan import Depth
from tlserve.schedule.background import Background, refinement_of
from tlserve.schedule.keeper import LastEvent
from tlserve.schedule.line import Errand, Line
from tlserve.schedule.requests import NOTHING, PassRequest, Touched, new_id
from tlserve.schedule.retries import FIRST_RETRY_SECONDS, Retries
from tlserve.schedule.routine import RoutineLooks
from tlserve.schedule.runner import Runner, Watches, Works
from tlserve.schedule.stage import Stage
from tlserve.schedule.turns import TURN_SECONDS


class Scheduler:
    """Hands the trainer one job at a time.

    make_job: turns a request into a job (reads the model's settings; may raise SettingsError); on a thread.
    models: the models to look at in a routine reconcile; on a thread.
    turn_seconds: what a pass works undisturbed at least while another model's change waits.
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
        turn_seconds: float = TURN_SECONDS,
    ) -> None:
        self._watcher = watcher
        self._line = Line()
        self._stage = Stage(self._line.claim_on, trainer.cancel)
        self._background = Background()
        self._retries = Retries(self._queue, first_retry_seconds)
        self._looks = RoutineLooks(models, self.look, reconcile_seconds)
        self._runner = Runner(
            trainer,
            watcher,
            make_job=make_job,
            line=self._line,
            background=self._background,
            retries=self._retries,
            stage=self._stage,
            turn_seconds=turn_seconds,
        )
        self._wake = asyncio.Event()

    # -- what is asked for

    def changed(self, model: str, noticed_at: float, touched: Touched = None) -> None:
        """The model's folder changed and is quiet now.

        noticed_at: Unix time of the first change. touched: paths relative to the folder, of files and
        folders, that are all that changed; None: look at everything.
        """
        self._retries.forgive(model)
        self._queue(
            PassRequest(
                new_id(), model, noticed_at, depth=Depth.INSTANT, touched=touched, settled_at=time.time()
            )
        )

    def retrain(self, model: str, *, accept_deletions: bool) -> str:
        """A person asks for a pass; returns the id of the job that will do it.

        A pass that has to make room goes on under that id with -2, -3 and so on appended.
        """
        self._retries.forgive(model)
        return self._queue(PassRequest(new_id(), model, None, accept_deletions, force=True)).job_id

    def look(self, model: str, *, asked: bool = False) -> None:
        """A routine look at one model's folder; asked: a person changed something and waits for it."""
        if asked:
            self._retries.forgive(model)
        self._queue(PassRequest(new_id(), model, asked=asked))

    def go_on(self, model: str, noticed_at: float | None = None) -> None:
        """A pass left images of a first import for the next one: other models' changes go before that."""
        self._queue(PassRequest(new_id(), model, noticed_at, goes_on=True))

    def refine(self, model: str) -> None:
        """The full recipe on what a fast version was made of, when nothing urgent waits, before studies.

        It is not carried out any more when another pass of the model publishes first.
        """
        request = PassRequest(new_id(), model, touched=NOTHING, refine=True)
        self._background.add(request, name=refinement_of(model))
        self._wake.set()

    def study(self, model: str) -> None:
        """Look for a better version of a model in the background, unless that failed a moment ago."""
        self._background.add(PassRequest(new_id(), model, depth=Depth.FULL), name=f"study {model}")
        self._wake.set()

    def learn_tuned(self, model: str, build: str) -> None:
        """Learn a model anew, in the background, on a build that was fine-tuned for it."""
        request = PassRequest(new_id(), model, depth=Depth.ROWS, tuned=build)
        self._background.add(request, name=f"tuned {model}")
        self._wake.set()

    async def errand(self, job: Job, *, patient: bool = False) -> LastEvent:
        """Run a job that is no pass, before or between the waiting passes; an ExportJob after urgent ones.

        patient: it is not worth interrupting what runs. Exports of what is live never are.
        """
        done: asyncio.Future[LastEvent] = asyncio.get_running_loop().create_future()
        self._line.add_errand(Errand(job, done, patient or isinstance(job, ExportJob)))
        self._wake.set()
        self._stage.press()
        return await done

    async def background_errand(self, job: Job) -> LastEvent:
        """Run a long job that is no pass when nothing else waits; it is set aside as often as need be."""
        done: asyncio.Future[LastEvent] = asyncio.get_running_loop().create_future()
        self._background.add_errand(job, done)
        self._wake.set()
        if self._stage.turn is not None and self._stage.turn.is_study:
            self._stage.end()
        try:
            return await done
        except asyncio.CancelledError:
            # Nobody waits for it any more; if it runs now, it ends.
            if self._stage.turn is not None and self._stage.turn.waited_for is done:
                self._stage.end()
            raise

    # -- what the trainer tells

    def looked(self, seconds: float) -> None:
        """A look at an unchanged folder took this long; the next round of looks waits in proportion."""
        self._looks.took(seconds)

    def progressed(self, progress: Progress) -> None:
        """How far a job is: it tells what would be lost if that had to make room now."""
        self._stage.heard(progress)

    # -- the work

    async def run(self) -> None:
        """Work until cancelled."""
        routine = asyncio.create_task(self._looks.run(), name="routine reconcile")
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._line or self._background:
                    await self._runner.run_next()
        finally:
            routine.cancel()
            self._retries.close()
            self._line.close()
            self._background.close()

    def _queue(self, request: PassRequest) -> PassRequest:
        model = request.model
        if (failed := self._retries.get(model)) is not None:
            if not request.is_urgent:
                # A routine look is no reason to hurry a pass that keeps failing.
                return failed
            request = self._retries.take(model).joined(request)
        request = self._line.add(request)
        self._watcher.pass_queued(model)
        self._wake.set()
        if request.is_urgent:
            self._background.forgive(model)
            self._stage.press()
        return request
