"""Gives images their side, once and for all: near duplicates together, a fifth of each class held out.

What `core.split` decides over all images of a model is decided here over those that have no side yet; of
the others it is enough to know how many each class has and holds out.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tlserve.core.split import HELD_OUT_LIMIT, HELD_OUT_SHARE, SMALLEST_SPLIT_CLASS, Member
from tlserve.core.types import Split
from tlserve.ingest.groups import NearDuplicates

GivenSides = dict[str, tuple[Split, str]]
"""digest -> (side, group of near duplicates)."""


class Tally(NamedTuple):
    """Of one class, with its images that have no side yet."""

    n_images: int
    n_held_out: int


class Newcomer(NamedTuple):
    """An image without a side."""

    label: str
    digest: str
    fingerprint: int


class SideGiver:
    """Knows the groups of near duplicates of one model, and their sides."""

    def __init__(self, group_sides: Mapping[str, Split]) -> None:
        self._group_sides = dict(group_sides)
        self._near = NearDuplicates(group_sides)

    def give(self, newcomers: Iterable[Newcomer], tallies: Mapping[str, Tally]) -> GivenSides:
        """tallies: of every class whose images have or get sides."""
        members = [
            Member(one.digest, one.label, self._near.group_of(one.digest, one.fingerprint))
            for one in sorted(newcomers)
        ]
        sides = sides_of_newcomers(members, tallies, self._group_sides)
        for member in members:
            self._group_sides.setdefault(member.group, sides[member.digest])
        return {member.digest: (sides[member.digest], member.group) for member in members}


def sides_of_newcomers(
    members: Sequence[Member],
    tallies: Mapping[str, Tally],
    group_sides: Mapping[str, Split],
    *,
    limit: int = HELD_OUT_LIMIT,
) -> dict[str, Split]:
    """What `core.split.assign_sides` gives these members, all of them without a side, among the others."""
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
