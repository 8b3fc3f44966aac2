"""Which versions may go: a pure rule, so that it can be tested as a table."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tlserve.release.live import LiveState


def versions_to_retire(
    numbers: Sequence[int],
    state: LiveState,
    *,
    keep_versions: int,
    leased: Collection[int],
    fast: Collection[int] = (),
) -> list[int]:
    """The versions to delete, ascending.

    `keep_versions` counts promoted versions: the latest so many stay. Never-promoted ones stay only
    where that leaves room, the newest of them longest, so they always go first; after them go fast
    versions (`fast`), which a refined one superseded. Live, previous, pinned and leased versions never go;
    nor does the newest, a candidate somebody may be looking at, whose number also tells the next one.
    """
    never = {state.live, state.previous, *state.pinned, *leased, max(numbers, default=None)}
    promoted = [n for n in state.promoted if n in set(numbers)]
    # By their worth: a fast version counts as one that was promoted before all others.
    latest_promotion_last = sorted(promoted, key=lambda n: n not in fast)
    kept = latest_promotion_last[max(0, len(latest_promotion_last) - keep_versions) :]
    others = sorted(set(numbers) - set(latest_promotion_last))
    room = max(0, keep_versions - len(kept))
    kept += others[len(others) - min(room, len(others)) :]
    return sorted(set(numbers) - set(kept) - never)
