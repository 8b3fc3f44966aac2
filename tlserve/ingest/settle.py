"""When a model has been quiet for long enough to be looked at, and what changed. Pure: the clock is injected.

A pass starts when nothing changed for `settle_seconds`, or `max_wait_seconds` after the first change
whatever goes on: a steady drip must not starve. Where it is known what changed, and every changed file was
seen closed or moved in, a tenth of a second is enough, because nobody is in the middle of writing one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

CLOSED_SECONDS = 0.1
"""The quiet that is enough while no changed file is open. Copying tools leave milliseconds between one file
and the next; where a slow source leaves more, the rest of the drop is simply the next change."""
MOST_OPEN_FILES = 10_000
"""Beyond this many, open files are no longer told apart; the model then waits the full time."""
MOST_TOUCHED = 10_000
"""Beyond this many changed paths, a look at everything costs no more than one at each of them."""


class Settled(NamedTuple):
    model: str
    noticed_at: float
    """Unix time of the first change."""
    touched: frozenset[str] | None
    """What changed, relative to the model's folder; None: anything may have."""


@dataclass(slots=True)
class _Unrest:
    first: float
    last: float
    noticed_at: float
    open_files: set[str] = field(default_factory=set)
    touched: set[str] | None = field(default_factory=set)


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

    def changed(self, model: str, path: str | None = None, *, growing: bool | None = None) -> bool:
        """Note a change; True when it is the model's first since it was last taken.

        path: what changed, relative to the model's folder; None: that is not known.
        growing: True for a file that may still be written, False for one that is complete, or gone.
        """
        now = self._clock()
        unrest = self._unrest.get(model)
        first = unrest is None
        if unrest is None:
            unrest = self._unrest[model] = _Unrest(first=now, last=now, noticed_at=self._wall_clock())
        unrest.last = now
        if path is None:
            unrest.touched = None
        elif unrest.touched is not None:
            unrest.touched.add(path)
            if len(unrest.touched) > MOST_TOUCHED:
                unrest.touched = None
        if path is not None and growing is not None and len(unrest.open_files) < MOST_OPEN_FILES:
            (unrest.open_files.add if growing else unrest.open_files.discard)(path)
        return first

    def take_ready(self) -> list[Settled]:
        """Models that are ready now; they start afresh, and what changes from now on is their next change."""
        now = self._clock()
        ready = [model for model, unrest in self._unrest.items() if self._due(unrest) <= now]
        return [self._settled(model, self._unrest.pop(model)) for model in ready]

    def seconds_left(self) -> float | None:
        """Until the next model may be ready, or None when all is quiet."""
        if not self._unrest:
            return None
        return max(0.0, min(map(self._due, self._unrest.values())) - self._clock())

    def _due(self, unrest: _Unrest) -> float:
        quiet = self._settle_seconds
        if unrest.touched is not None and not unrest.open_files:
            quiet = min(quiet, CLOSED_SECONDS)
        return min(unrest.last + quiet, unrest.first + self._max_wait_seconds)

    @staticmethod
    def _settled(model: str, unrest: _Unrest) -> Settled:
        touched = None if unrest.touched is None else frozenset(unrest.touched)
        return Settled(model, unrest.noticed_at, touched)
