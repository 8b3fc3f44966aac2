"""What the scheduler is asked for: a wish for a pass, how two wishes become one, and who goes before whom."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum

from tlserve.core.plan import Depth

Touched = frozenset[str] | None
"""Files and folders, relative to the model's folder, that are all that changed; None: look at everything."""
NOTHING: frozenset[str] = frozenset()
MOST_TOUCHED = 10_000
"""Looking at everything is cheaper than a longer list, and remembering that costs nothing."""


class Rank(IntEnum):
    """Who goes first; within a rank, whoever waits longest."""

    CHANGE = 0
    """Somebody dropped something."""
    INTERRUPTED = 1
    """The same, but it had a turn before."""
    ASKED = 2
    """A person asked for it."""
    PART = 3
    """The next part of a first import."""
    EXPORT = 4
    """Of a live version, for other servers to find."""
    LOOK = 5
    """It is time."""


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
    touched: Touched = None
    settled_at: float | None = None
    """Unix time at which the folder was quiet enough for it; None where no change is behind it."""
    refine: bool = False
    """Whether it is to better the fast version that is live, of the same images."""
    goes_on: bool = False
    """Whether it is the next part of a first import, and nothing changed since the one before."""
    tried: bool = False
    """Whether a trainer died or gave up over it, under the same job id."""
    interrupted: int = 0
    """How often it was told to make room."""
    doubled: int = 0
    """How often its turn was doubled, as it lost work in turns that were too short for it."""

    @property
    def is_urgent(self) -> bool:
        """Whether somebody waits for it, rather than that it is time for a routine look."""
        return self.force or self.asked or self.goes_on or self.noticed_at is not None

    @property
    def is_change(self) -> bool:
        """Whether something in the folder changed since the pass before."""
        return self.noticed_at is not None and not self.goes_on

    @property
    def rank(self) -> Rank:
        if self.is_change:
            return Rank.INTERRUPTED if self.interrupted else Rank.CHANGE
        if self.force or self.asked:
            return Rank.ASKED
        return Rank.PART if self.goes_on else Rank.LOOK

    def may_interrupt(self, running: PassRequest) -> bool:
        """Whether a running pass has to make room for this one, once it had its turn.

        Changes may interrupt every other model's pass, and a routine look at their own; what a person asks
        for may interrupt what nobody asked for.
        """
        if self.model == running.model:
            return self.is_change and running.rank is Rank.LOOK
        return self.is_change or (self.rank is Rank.ASKED and running.rank > Rank.ASKED)

    def joined(self, newer: PassRequest) -> PassRequest:
        """Both wishes as one: the earliest notice and everything that either asked for."""
        return replace(
            self,
            job_id=self._id_with(newer),
            noticed_at=_earliest(self.noticed_at, newer.noticed_at),
            settled_at=_earliest(self.settled_at, newer.settled_at),
            accept_deletions=self.accept_deletions or newer.accept_deletions,
            force=self.force or newer.force,
            asked=self.asked or newer.asked,
            # Also where a person asked for a retraining: the full recipe follows a fast version by itself.
            depth=Depth.INSTANT if Depth.INSTANT in (self.depth, newer.depth) else Depth.QUICK,
            touched=all_touched(self.touched, newer.touched),
            goes_on=(self.goes_on or newer.goes_on) and not (self.is_change or newer.is_change),
            interrupted=max(self.interrupted, newer.interrupted),
            doubled=max(self.doubled, newer.doubled),
        )

    def _id_with(self, newer: PassRequest) -> str:
        """The id of both as one.

        A person was told the id of what was asked for, so that id stays. Under an id that a trainer died
        over a version may be published already; with something new to learn, that one must not count for it.
        """
        if newer.force and (self.tried or not self.force):
            return newer.job_id
        return next_id(self.job_id) if self.tried and newer.is_urgent else self.job_id


def all_touched(one: Touched, other: Touched) -> Touched:
    """Whatever either names; None, which is everything, where either says so or the list grows too long."""
    if one is None or other is None or len(both := one | other) > MOST_TOUCHED:
        return None
    return both


def new_id() -> str:
    return uuid.uuid4().hex


def next_id(job_id: str) -> str:
    """For the next attempt at a job; it begins as the first, which a person may have been told."""
    first, _, attempt = job_id.rpartition("-")
    return f"{first}-{int(attempt) + 1}" if first and attempt.isdecimal() else f"{job_id}-2"


def _earliest(*times: float | None) -> float | None:
    known: Iterable[float] = (at for at in times if at is not None)
    return min(known, default=None)
