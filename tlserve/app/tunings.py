"""Fine-tunings: one at a time, each in a process of its own, so that a drop goes live meanwhile.

The trainer leaves an order in the state directory, the tuner carries it out and leaves the result there.
So whatever dies on the way, the work goes on from the last checkpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import uuid
from collections.abc import Callable, Sequence

from tlserve.app.board import Board, tuning_in_words
from tlserve.core.errors import TrainerFailed
from tlserve.core.messages import Event, Tuned, TuneJob, TuneProgressed
from tlserve.release.layout import StateLayout
from tlserve.schedule import Scheduler, TrainerKeeper

log = logging.getLogger("tlserve.tuning")

RETRY_SECONDS = (5.0, 30.0, 300.0)


class Tunings:
    """Carries out what the trainer ordered.

    command: argv that starts a tuner. keep: whether there still is such a model.
    """

    def __init__(
        self,
        layout: StateLayout,
        command: Sequence[str],
        board: Board,
        scheduler: Scheduler,
        *,
        keep: Callable[[str], bool],
    ) -> None:
        self._layout, self._command = layout, tuple(command)
        self._board, self._scheduler, self._keep = board, scheduler, keep
        self._waiting: asyncio.Queue[str] = asyncio.Queue()

    def ordered(self, model: str) -> None:
        """An order lies in the state directory, or a result that nobody learnt on yet."""
        if (build := self._result(model)) is not None:
            self._scheduler.learn_tuned(model, build)
        else:
            self._waiting.put_nowait(model)

    def resume(self) -> None:
        """Take up what an earlier life of the daemon left: orders, and results that nobody learnt on yet."""
        with contextlib.suppress(FileNotFoundError):
            for folder in sorted(self._layout.tunings.iterdir()):
                if not self._keep(folder.name):
                    continue
                if self._layout.tuning_order(folder.name).is_file():
                    self.ordered(folder.name)

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            model = await self._waiting.get()
            try:
                await self._tune(model)
            except Exception:
                log.exception("model %r: the fine-tuning could not be carried out", model)
            finally:
                self._board.tuning(model, "")

    async def _tune(self, model: str) -> None:
        for pause in (*RETRY_SECONDS, None):
            if not self._layout.tuning_order(model).is_file() or self._result(model) is not None:
                return
            done = await carried_out(self._command, model, self._board)
            if done.build is not None:
                self._board.said(model, "version", f"{done.reason}; learning on it")
                self._scheduler.learn_tuned(model, done.build)
                return
            if done.cancelled:
                # Whoever placed another order has announced it too.
                self._board.said(model, "tuning", f"fine-tuning ended: {done.reason}")
                return
            self._board.said(model, "problem", f"fine-tuning ended without a result: {done.reason}")
            if not done.retryable or pause is None:
                return
            await asyncio.sleep(pause)

    def _result(self, model: str) -> str | None:
        try:
            return str(json.loads(self._layout.tuning_result(model).read_bytes())["build"])
        except (OSError, ValueError, KeyError, TypeError):
            return None


async def carried_out(command: Sequence[str], model: str, board: Board) -> Tuned:
    """One process for one order: what it held of memory goes with it. A process that dies is retryable."""

    def heard(event: Event) -> None:
        if isinstance(event, TuneProgressed):
            board.tuning(event.model, tuning_in_words(event.progress))

    job = TuneJob(uuid.uuid4().hex, model)
    keeper = TrainerKeeper(command, heard)
    try:
        done = await keeper.run(job)
        assert isinstance(done, Tuned)
        return done
    except TrainerFailed as exc:
        return Tuned(job.job_id, model, None, str(exc), retryable=True)
    finally:
        await keeper.stop()
        board.tuning(model, "")
