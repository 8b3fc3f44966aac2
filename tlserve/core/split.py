"""Which images are held out for judging: a stable fifth of each class, decided once per image.

Pure: who is on which side already comes in, who joins comes out. Ingest stores the answer.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tlserve.core.types import Split

HELD_OUT_SHARE = 0.2
HELD_OUT_LIMIT = 20_000
SMALLEST_SPLIT_CLASS = 5


@dataclass(frozen=True, slots=True)
class Member:
    """An image that may need a side. Near duplicates share a `group`; any string will do."""

    digest: str
    label: str
    group: str


def assign_sides(
    members: Sequence[Member],
    known: Mapping[str, Split],
    group_sides: Mapping[str, Split],
    *,
    limit: int = HELD_OUT_LIMIT,
) -> dict[str, Split]:
    """Sides for the members that have none yet: {digest: side}. Known sides are never revisited.

    A member of a group that already has a side takes it, whatever its class. Of the other groups, those
    with the lowest hash are held out while they fit the fifth of every class they touch; classes under 5
    images hold out nothing. `limit` bounds the held-out images of all classes together, each class
    giving way in proportion; only followers of a held-out group may exceed it.
    """
    sides: dict[str, Split] = {}
    undecided: dict[str, dict[str, str]] = defaultdict(dict)
    for member in members:
        if member.digest in known:
            continue
        if member.group in group_sides:
            sides[member.digest] = group_sides[member.group]
        else:
            undecided[member.group][member.digest] = member.label

    missing = _missing(members, {**known, **sides}, limit)
    for group in _by_hash(undecided):
        labels = Counter(undecided[group].values())
        fits = all(count <= missing[label] for label, count in labels.items())
        if fits:
            missing.subtract(labels)
        sides.update(dict.fromkeys(undecided[group], Split.HELD_OUT if fits else Split.TRAIN))
    return sides


def _missing(members: Sequence[Member], sides: Mapping[str, Split], limit: int) -> Counter[str]:
    """How many images each class may still hold out."""
    sizes: Counter[str] = Counter()
    held: Counter[str] = Counter()
    for label, digest in {(member.label, member.digest) for member in members}:
        sizes[label] += 1
        held[label] += sides.get(digest) is Split.HELD_OUT
    wanted = {label: _wanted(size) for label, size in sizes.items()}
    share = min(1.0, limit / max(1, sum(wanted.values())))
    missing = Counter({label: max(0, int(count * share) - held[label]) for label, count in wanted.items()})
    # Sides never change, so classes that hold out more than their share now leave less to the others.
    room = max(0, limit - held.total())
    if missing.total() > room:
        return Counter({label: count * room // missing.total() for label, count in missing.items()})
    return missing


def _wanted(n_images: int) -> int:
    return 0 if n_images < SMALLEST_SPLIT_CLASS else round(n_images * HELD_OUT_SHARE)


def _by_hash(groups: Iterable[str]) -> list[str]:
    return sorted(groups, key=lambda group: hashlib.sha256(group.encode()).digest())
