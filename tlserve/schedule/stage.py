"""Where what runs has its turn, and is told to end when others may have theirs."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Iterator

from tlserve.core.messages import Progress
from tlserve.schedule.turns import Turn


class Stage:
    """Takes one turn at a time.

    claim_on: how often the turn of those who wait and may interrupt this one was doubled; None: nobody may.
    cancel: tells the trainer to end a job.
    """

    def __init__(
        self, claim_on: Callable[[Turn], int | None], cancel: Callable[[str], Awaitable[None]]
    ) -> None:
        self._claim_on, self._cancel = claim_on, cancel
        self._timer: asyncio.TimerHandle | None = None
        self._cancelling: set[asyncio.Future[None]] = set()
        self.turn: Turn | None = None
        """What runs; None while nothing does that could make room."""

    @contextlib.contextmanager
    def of(self, turn: Turn) -> Iterator[None]:
        """While it runs."""
        self.turn = turn
        self.press()
        try:
            yield
        finally:
            self.turn = None
            if self._timer is not None:
                self._timer.cancel()

    def heard(self, progress: Progress) -> None:
        """The trainer tells how far a job is."""
        if self.turn is not None and self.turn.job_id == progress.job_id:
            self.turn.heard(progress, asyncio.get_running_loop().time())

    def press(self) -> None:
        """Have what runs make room for those who wait, if they may ask for it: now, or after its turn."""
        turn, loop = self.turn, asyncio.get_running_loop()
        if turn is None or turn.must_end or (claim := self._claim_on(turn)) is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        rest_seconds = turn.rest_seconds(loop.time(), claim)
        if rest_seconds == 0.0:
            self.end()
        elif rest_seconds < math.inf:
            self._timer = loop.call_later(rest_seconds, self.press)

    def end(self) -> None:
        """Have what runs make room now."""
        if self.turn is not None:
            self.turn.must_end = True
            task = asyncio.ensure_future(self._cancel(self.turn.job_id))
            self._cancelling.add(task)
            task.add_done_callback(self._cancelling.discard)
