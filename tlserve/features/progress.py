"""How far an extraction is, how fast it goes, and how long it will take."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

_SPEED_OVER_SECONDS = 10.0
"""The rate that is reported is the mean over this long, so that it follows the work at hand."""


@dataclass(frozen=True, slots=True)
class ExtractionProgress:
    done: int
    """Images dealt with, bad ones included; or views, of bad images too."""
    total: int
    images_per_second: float
    seconds_left: float


class Pace:
    """Turns a count of finished images into a speed and a remaining time."""

    def __init__(self, total: int, started: float) -> None:
        self._total = total
        self._marks: deque[tuple[float, int]] = deque([(started, 0)])

    def after(self, done: int, now: float) -> ExtractionProgress:
        self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[1][0] > _SPEED_OVER_SECONDS:
            self._marks.popleft()
        then, before = self._marks[0]
        speed = (done - before) / max(now - then, 1e-9)
        return ExtractionProgress(done, self._total, speed, (self._total - done) / max(speed, 1e-9))
