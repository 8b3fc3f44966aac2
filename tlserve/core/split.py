"""Which images are held out for judging: a stable fifth of each class, decided once per image.

Pure: what is decided already comes in as numbers, who joins comes out. Ingest stores the answer. The cost
is that of the images that join, however many there are.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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


class Tally(NamedTuple):
    """Of one class, with its images that have no side yet."""

    n_images: int
    n_held_out: int


def sides_of_newcomers(
    members: Sequence[Member],
    tallies: Mapping[str, Tally],
    group_sides: Mapping[str, Split],
    *,
    limit: int = HELD_OUT_LIMIT,
) -> dict[str, Split]:
    """Sides for images that have none yet: {digest: side}. Those of the others are never revisited.

    tallies: of every class of these members, themselves included. group_sides: of groups given out before.
    A member of a group that already has a side takes it, whatever its class. Of the other groups, those
    with the lowest hash are held out while they fit the fifth of every class they touch; classes under 5
    images hold out nothing. `limit` bounds the held-out images of all classes together, each class
    giving way in proportion; only followers of a held-out group may exceed it.
    """
    sides: dict[str, Split] = {}
    held_out = Counter({label: tally.n_held_out for label, tally in tallies.items()})
    undecided: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for member in members:
        side = group_sides.get(member.group)
        if side is None:
            undecided[member.group][member.digest] = member.label
        else:
            sides[member.digest] = side
            held_out[member.label] += side is Split.HELD_OUT

    missing = _missing({label: tally.n_images for label, tally in tallies.items()}, held_out, limit)
    for group in sorted(undecided, key=lambda group: hashlib.sha256(group.encode()).digest()):
        labels = Counter(undecided[group].values())
        fits = all(count <= missing[label] for label, count in labels.items())
        if fits:
            missing.subtract(labels)
        sides.update(dict.fromkeys(undecided[group], Split.HELD_OUT if fits else Split.TRAIN))
    return sides


def _missing(sizes: Mapping[str, int], held_out: Counter[str], limit: int) -> Counter[str]:
    """How many images each class may still hold out."""
    wanted = {
        label: 0 if size < SMALLEST_SPLIT_CLASS else round(size * HELD_OUT_SHARE)
        for label, size in sizes.items()
    }
    share = min(1.0, limit / max(1, sum(wanted.values())))
    missing = Counter(
        {label: max(0, int(count * share) - held_out[label]) for label, count in wanted.items()}
    )
    # Sides never change, so classes that hold out more than their share now leave less to the others.
    room = max(0, limit - held_out.total())
    if missing.total() > room:
        return Counter({label: count * room // missing.total() for label, count in missing.items()})
    return missing
