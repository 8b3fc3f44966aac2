"""Which version answers: the state behind a model's LIVE file, and the ways it may change. Free of I/O.

The daemon alone writes LIVE. Each change here is a pure function from one state to the next, so that
what a promotion or a rollback means can be read, and tested, without a disk.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

from tlserve.core.errors import NotReady
from tlserve.core.lifecycle import Promotion

FORMAT = 1
HISTORY_LIMIT = 200


@dataclass(frozen=True, slots=True)
class LiveChange:
    """One moment at which a version went live."""

    version: int
    at: float
    """Unix time."""
    reason: str
    drop_to_live_seconds: float | None = None
    """From the first change in the folder to this moment; None when a person promoted it."""
    publishing_seconds: float | None = None
    """What writing the version took, which its own manifest cannot tell."""


@dataclass(frozen=True, slots=True)
class LiveState:
    """What stands in LIVE."""

    live: int | None = None
    previous: int | None = None
    promotion: Promotion | None = None
    """None: as the settings say."""
    backbone: str | None = None
    """What a person adopted; None: as the settings say."""
    promoted: tuple[int, ...] = ()
    """Every version that ever went live and may still be on disk, the latest promotion last."""
    pinned: tuple[int, ...] = ()
    """Ascending; never retired, always exported."""
    history: tuple[LiveChange, ...] = ()
    """The latest changes, oldest first."""


def promoted(
    state: LiveState,
    version: int,
    at: float,
    reason: str,
    *,
    drop_to_live_seconds: float | None = None,
    publishing_seconds: float | None = None,
    refines: bool = False,
) -> LiveState:
    """`version` goes live; the one that was live becomes previous. The live one again changes nothing.

    refines: it was learnt from the same images as the live one, only better: a rollback should lead to what
    answered before both.
    """
    if version == state.live:
        return state
    change = LiveChange(version, at, reason, drop_to_live_seconds, publishing_seconds)
    return replace(
        state,
        live=version,
        previous=state.previous if refines else state.live,
        promoted=(*(n for n in state.promoted if n != version), version),
        history=(*state.history, change)[-HISTORY_LIMIT:],
    )


def rolled_back(state: LiveState, at: float, reason: str = "rolled back by a person") -> LiveState:
    """The previous version goes live, and promotion turns manual, or the next drop would undo it.

    Raises NotReady without a previous version.
    """
    if state.previous is None:
        raise NotReady("there is no previous version to roll back to")
    return with_promotion(promoted(state, state.previous, at, reason), Promotion.MANUAL)


def pinned(state: LiveState, version: int, *, pinned: bool = True) -> LiveState:
    """A pinned version is never retired and stays in the Triton repository."""
    others = {n for n in state.pinned if n != version}
    return replace(state, pinned=tuple(sorted(others | {version} if pinned else others)))


def with_promotion(state: LiveState, promotion: Promotion | None) -> LiveState:
    """Who decides from now on; None: as the settings say."""
    return replace(state, promotion=promotion)


def with_backbone(state: LiveState, backbone: str | None) -> LiveState:
    """What the model learns on from now on; None: as the settings say."""
    return replace(state, backbone=backbone)


def without_retired(state: LiveState, existing: Collection[int]) -> LiveState:
    """`state` without numbers that are no longer on disk, so that LIVE stays small over the years."""
    return replace(
        state,
        promoted=tuple(n for n in state.promoted if n in existing),
        pinned=tuple(n for n in state.pinned if n in existing),
    )


def highest_number(state: LiveState) -> int:
    """The highest version number that LIVE remembers; 0 for none."""
    numbers = [*state.promoted, *state.pinned, *(change.version for change in state.history)]
    return max((*numbers, state.live or 0, state.previous or 0))


def live_to_json(state: LiveState) -> bytes:
    """One field a line, and one change a line: a person may have to put it right by hand."""
    fields = {"format": FORMAT, **asdict(replace(state, history=()))}
    del fields["history"]
    lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items()]
    changes = ",\n".join(map(_change_to_json, state.history))
    lines.append(f' "history": [\n{changes}\n ]')
    return "{{\n{}\n}}\n".format(",\n".join(lines)).encode()


@lru_cache(maxsize=4 * HISTORY_LIMIT)
def _change_to_json(change: LiveChange) -> str:
    """All but one of them stood in the file before: a swap under load must not spell them all again."""
    return f"  {json.dumps(asdict(change))}"


def live_from_json(data: bytes) -> LiveState:
    """The inverse of `live_to_json`; raises ValueError for anything else."""
    try:
        raw = json.loads(data)
        if raw["format"] != FORMAT:
            raise ValueError("written in another format, by another release of tlserve")
        return LiveState(
            live=_number(raw["live"]),
            previous=_number(raw["previous"]),
            promotion=None if raw["promotion"] is None else Promotion(raw["promotion"]),
            promoted=tuple(int(n) for n in raw["promoted"]),
            # Older releases let nobody adopt one.
            backbone=_name(raw.get("backbone")),
            pinned=tuple(int(n) for n in raw["pinned"]),
            history=tuple(LiveChange(**change) for change in raw["history"]),
        )
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"not a LIVE file: {exc!r}") from exc


def _name(value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or not value):
        raise ValueError(f"{value!r} is not the name of a backbone")
    return value


def _number(value: Any) -> int | None:
    if value is not None and (not isinstance(value, int) or value < 1):
        raise ValueError(f"{value!r} is not a version number")
    return value
