"""What a pass tells while it works: the phase it is in, how far it is, and how long each phase took."""

from __future__ import annotations

import time
from collections.abc import Callable

from tlserve.core.lifecycle import Phase
from tlserve.core.messages import Event, Progress

PROGRESS_EVERY_SECONDS = 0.2
FEWEST_SECONDS_FOR_A_RATE = 1.0

Emit = Callable[[Event], None]


class Cancelled(Exception):
    """The daemon asked for the end of this job."""


class Teller:
    """Progress of one job. `cancelled` is asked at each step; everything costly asks it too."""

    def __init__(self, job_id: str, model: str, emit: Emit, cancelled: Callable[[], bool]) -> None:
        self.job_id, self.model = job_id, model
        self.emit, self.cancelled = emit, cancelled
        self.timeline: dict[str, float] = {}
        """Seconds spent in each phase that is over."""
        self._phase: Phase | None = None
        self._phase_began = self._told_at = 0.0

    def waited(self, noticed_at: float | None, settled_at: float | None) -> None:
        """What the change spent before this job began; Unix times."""
        if noticed_at is not None and settled_at is not None:
            self.timeline[Phase.SETTLING.value] = round(max(0.0, settled_at - noticed_at), 4)
            self.timeline[Phase.QUEUED.value] = round(max(0.0, time.time() - settled_at), 4)

    def enter(self, phase: Phase | None, note: str = "") -> None:
        """Begin a phase, or say something new about the present one; None ends the last. Raises Cancelled."""
        now = time.perf_counter()
        if self._phase is not None:
            spent = self.timeline.get(self._phase.value, 0.0) + now - self._phase_began
            self.timeline[self._phase.value] = round(spent, 4)
        entered, self._phase, self._phase_began = phase is not self._phase, phase, now
        if phase is not None and (entered or note):
            self.check_cancelled()
            self.emit(Progress(self.job_id, self.model, phase, note=note))

    def tell(
        self, done: int, total: int, per_second: float | None = None, seconds_left: float | None = None
    ) -> None:
        """How far the present phase is; told a few times a second at most, and at its end."""
        if self._phase is not None and self._is_time(done == total):
            self.emit(Progress(self.job_id, self.model, self._phase, done, total, per_second, seconds_left))

    def tell_with_time_left(self, done: int, total: int) -> None:
        """As `tell`, reckoning on what is left taking as long as what was done in this phase."""
        seconds = time.perf_counter() - self._phase_began
        if seconds < FEWEST_SECONDS_FOR_A_RATE or not done:
            self.tell(done, total)
        else:
            self.tell(done, total, done / seconds, (total - done) * seconds / done)

    def check_cancelled(self) -> None:
        """Raises Cancelled."""
        if self.cancelled():
            raise Cancelled

    def _is_time(self, last: bool) -> bool:
        now = time.perf_counter()
        if last or now - self._told_at >= PROGRESS_EVERY_SECONDS:
            self._told_at = now
            return True
        return False
