"""What a model may be doing, and what a version may be, as tables."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from tlserve.core.errors import TlserveError


class Phase(StrEnum):
    """What the daemon is doing for one model now."""

    IDLE = "idle"
    SETTLING = "settling"
    QUEUED = "queued"
    SCANNING = "scanning"
    EXTRACTING = "extracting"
    TRAINING = "training"
    JUDGING = "judging"
    PUBLISHING = "publishing"
    SWAPPING = "swapping"
    WAITING = "waiting"
    """For images or for a person; the reason says which."""
    FAILED = "failed"
    """The last pass failed; it is retried after a pause, or on the next change."""


_WORK = (Phase.SCANNING, Phase.EXTRACTING, Phase.TRAINING, Phase.JUDGING, Phase.PUBLISHING, Phase.SWAPPING)
_REST = {Phase.IDLE, Phase.WAITING, Phase.FAILED}

MOVES: dict[Phase, frozenset[Phase]] = {
    **{phase: frozenset({Phase.SETTLING, Phase.QUEUED} | _REST) for phase in _REST},
    Phase.SETTLING: frozenset({Phase.QUEUED, Phase.IDLE}),
    Phase.QUEUED: frozenset({Phase.SCANNING} | _REST),
    # Work only goes forward; a pass may end at any step, and a dead trainer sends it back to the queue.
    **{phase: frozenset(set(_WORK[i:]) | _REST | {Phase.QUEUED}) for i, phase in enumerate(_WORK)},
}
# But for one step: a study passes augmented views when it has compared taps and heads.
MOVES[Phase.TRAINING] |= {Phase.EXTRACTING}


class IllegalMove(TlserveError):
    def __init__(self, model: str, old: Phase, new: Phase) -> None:
        super().__init__(f"model {model!r} cannot go from {old} to {new}")


def move(model: str, old: Phase, new: Phase) -> Phase:
    """`new`, if the table allows it; raises IllegalMove otherwise."""
    if new is not old and new not in MOVES[old]:
        raise IllegalMove(model, old, new)
    return new


class VersionState(StrEnum):
    LIVE = "live"
    PREVIOUS = "previous"
    CANDIDATE = "candidate"
    """Judged good enough, waiting for a person (promotion is manual)."""
    HELD = "held"
    """Judged worse than the version that was live."""
    RETIRED = "retired"
    """Was live once."""


class Promotion(StrEnum):
    """Who decides that a version goes live."""

    AUTO = "auto"
    """The judge."""
    MANUAL = "manual"
    """A person; new versions wait as candidates."""
    FROZEN = "frozen"
    """Nobody: changes are noticed, and nothing is trained until the model is thawed."""


def version_state(
    number: int, *, live: int | None, previous: int | None, promoted: Iterable[int], verdict: str
) -> VersionState:
    """The state of a version, derived from LIVE and from what the judge said of it."""
    if number == live:
        return VersionState.LIVE
    if number == previous:
        return VersionState.PREVIOUS
    if number in set(promoted):
        return VersionState.RETIRED
    return VersionState.CANDIDATE if verdict == "promote" else VersionState.HELD
