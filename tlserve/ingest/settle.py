"""When a model has been quiet for long enough to be looked at. Pure: the clock is injected.

A pass starts when nothing changed for `settle_seconds`, or `max_wait_seconds` after the first change
whatever goes on: a steady drip must not starve. Where every changed file was seen closed, less quiet is
enough, because nobody is in the middle of writing one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

CLOSED_SHARE = 0.4
"""The share of `settle_seconds` that is enough while no changed file is open."""
MOST_OPEN_FILES = 10_000
"""Beyond this many, open files are no longer told apart; the model then waits the full time."""


@dataclass(slots=True)
class _Unrest:
    first: float
    last: float
    noticed_at: float
    open_files: set[str] = field(default_factory=set)


class SettleTimer:
    """Not thread-safe: whoever owns it holds a lock."""

    def __init__(
        self,
        *,
        settle_seconds: float,
        max_wait_seconds: float,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        """clock: monotonic seconds, decides; wall_clock: Unix time, only reported."""
        self._settle_seconds, self._max_wait_seconds = settle_seconds, max_wait_seconds
        self._clock, self._wall_clock = clock, wall_clock
        self._unrest: dict[str, _Unrest] = {}

    def changed(self, model: str, *, opened: str | None = None, closed: str | None = None) -> bool:
        """Note a change; True when it is the model's first since it was last taken.

        opened: a file that may still be written; closed: one that is complete, or gone.
        """
        now = self._clock()
        unrest = self._unrest.get(model)
        first = unrest is None
        if unrest is None:
            unrest = self._unrest[model] = _Unrest(first=now, last=now, noticed_at=self._wall_clock())
        unrest.last = now
        if opened is not None and len(unrest.open_files) < MOST_OPEN_FILES:
            unrest.open_files.add(opened)
        if closed is not None and len(unrest.open_files) < MOST_OPEN_FILES:
            unrest.open_files.discard(closed)
        return first

    def take_ready(self) -> list[tuple[str, float]]:
        """Models that are ready now, each with the Unix time of its first change; they start afresh."""
        now = self._clock()
        ready = [model for model, unrest in self._unrest.items() if self._due(unrest) <= now]
        return [(model, self._unrest.pop(model).noticed_at) for model in ready]

    def seconds_left(self) -> float | None:
        """Until the next model may be ready, or None when all is quiet."""
        if not self._unrest:
            return None
        return max(0.0, min(map(self._due, self._unrest.values())) - self._clock())

    def _due(self, unrest: _Unrest) -> float:
        quiet = self._settle_seconds if unrest.open_files else self._settle_seconds * CLOSED_SHARE
        return min(unrest.last + quiet, unrest.first + self._max_wait_seconds)
