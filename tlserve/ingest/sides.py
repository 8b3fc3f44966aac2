"""Gives images their side, once and for all: by the rule of `core.split`, near duplicates together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tlserve.core.split import Member, Tally, sides_of_newcomers
from tlserve.core.types import Split
from tlserve.ingest.groups import NearDuplicates

GivenSides = dict[str, tuple[Split, str]]
"""digest -> (side, group of near duplicates)."""


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
