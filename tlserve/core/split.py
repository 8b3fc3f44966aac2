"""Which images are held out for judging: a stable fifth of each class, decided once per image.

Pure: who is on which side already comes in, who joins comes out. Ingest stores the answer.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
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
    with the lowest hash fill each class's fifth; classes under 5 images hold out nothing. `limit` bounds
    the held-out images of all classes together.
    """
    per_class: dict[str, list[Member]] = defaultdict(list)
    for member in members:
        per_class[member.label].append(member)
    wanted = {label: _wanted(len(images)) for label, images in per_class.items()}
    scale = min(1.0, limit / max(1, sum(wanted.values())))

    sides: dict[str, Split] = {}
    group_side = dict(group_sides)
    for label in sorted(per_class):
        images = per_class[label]
        fresh: dict[str, list[str]] = defaultdict(list)
        for member in images:
            if member.digest not in known:
                fresh[member.group].append(member.digest)
        followers = {group: digests for group, digests in fresh.items() if group in group_side}
        for group, digests in followers.items():
            sides.update(dict.fromkeys(digests, group_side[group]))
        held = sum(known.get(m.digest, sides.get(m.digest)) is Split.HELD_OUT for m in images)
        missing = int(wanted[label] * scale) - held
        for group in _by_hash(fresh.keys() - followers.keys()):
            side = Split.HELD_OUT if len(fresh[group]) <= missing else Split.TRAIN
            if side is Split.HELD_OUT:
                missing -= len(fresh[group])
            group_side[group] = side
            sides.update(dict.fromkeys(fresh[group], side))
    return sides


def _wanted(n_images: int) -> int:
    return 0 if n_images < SMALLEST_SPLIT_CLASS else round(n_images * HELD_OUT_SHARE)


def _by_hash(groups: Iterable[str]) -> list[str]:
    return sorted(groups, key=lambda group: hashlib.sha256(group.encode()).digest())
