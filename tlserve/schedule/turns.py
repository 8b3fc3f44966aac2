"""What the trainer works on now, and when that has to make room for others.

A pass that lost work because it was interrupted works twice as long undisturbed the next time: so every
pass ends some day, whatever else goes on.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

from tlserve.core.lifecycle import Phase
from tlserve.core.messages import Progress
from tlserve.schedule.keeper import LastEvent
from tlserve.schedule.requests import PassRequest, next_id

TURN_SECONDS = 1.0
"""What a pass works undisturbed at least, while another model's change waits."""
_MOST_DOUBLINGS = 20
_KEPT = (Phase.SCANNING, Phase.EXTRACTING)
"""Phases whose progress outlasts an interruption: files that were read, rows."""


class Turn:
    """A pass at work, or a long errand.

    began: this and every other time here is the event loop's, in seconds.
    seconds: what a pass works undisturbed at least, doublings left out.
    request: the pass; None for an errand.
    in_background: it makes room at once for whatever is urgent.
    waited_for: by whoever asked for the errand.
    """

    def __init__(
        self,
        job_id: str,
        began: float,
        seconds: float = TURN_SECONDS,
        request: PassRequest | None = None,
        *,
        in_background: bool = False,
        waited_for: asyncio.Future[LastEvent] | None = None,
    ) -> None:
        self.job_id, self.request, self.waited_for = job_id, request, waited_for
        self.must_end = False
        """Whether it was told to make room."""
        self._began, self._seconds, self._in_background = began, seconds, in_background
        self._phase: Phase | None = None
        self._phase_began = began
        self._kept_seconds: dict[Phase, float] = {}

    @property
    def is_study(self) -> bool:
        """Whether it may take hours, and nobody waits for it."""
        return self._in_background and self.request is not None and not self.request.refine

    def may_be_interrupted_by(self, waiting: PassRequest) -> bool:
        if self.request is None or self._in_background:
            return waiting.is_urgent
        return waiting.may_interrupt(self.request)

    def heard(self, progress: Progress, now: float) -> None:
        """The trainer works on it, and this is how far it is."""
        if self._phase is None:
            # What a trainer takes to start is no part of a turn.
            self._began = now
        if progress.phase is not self._phase:
            self._phase, self._phase_began = progress.phase, now
        if progress.done and progress.phase in _KEPT:
            self._kept_seconds[progress.phase] = now - self._phase_began

    def rest_seconds(self, now: float, claim: int) -> float:
        """For how long it may go on while somebody waits whose own turn was doubled `claim` times.

        A pass is granted no less than the other would get. What is being judged is nearly done; what is
        being published is done in a moment, and is never told to end.
        """
        if self.request is None:
            return 0.0
        if self._phase is Phase.PUBLISHING:
            return math.inf
        ends = self._began
        if not self._in_background:
            ends += self._seconds * 2.0 ** min(max(self.request.doubled, claim), _MOST_DOUBLINGS)
        if self._phase is Phase.JUDGING:
            ends = max(ends, self._phase_began + self._seconds)
        return max(0.0, ends - now)

    def set_aside(self, now: float) -> PassRequest:
        """The pass as it comes back after it made room: with a longer turn, if most of this one was lost.

        Under another id, as the trainer remembers what it was told to end.
        """
        assert self.request is not None
        kept = sum(self._kept_seconds.values()) / max(now - self._began, 1e-9)
        doubled = self.request.doubled
        if kept < 0.5:
            doubled += 1
        elif kept > 0.75:
            # Half as long would be enough: at most half of that would be lost.
            doubled = max(0, doubled - 1)
        return replace(
            self.request,
            job_id=next_id(self.job_id),
            tried=False,
            interrupted=self.request.interrupted + 1,
            doubled=doubled,
        )
