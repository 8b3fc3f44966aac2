"""Sides given to newcomers are those that the rule over all images gives."""

from __future__ import annotations

from collections import Counter

import pytest

pytest.importorskip("hypothesis", reason="hypothesis is not installed")
from hypothesis import given
from hypothesis import strategies as st

from tlserve.core.split import Member, assign_sides
from tlserve.core.types import Split
from tlserve.ingest.sides import Newcomer, SideGiver, Tally, sides_of_newcomers

members = st.lists(
    st.builds(Member, st.integers(0, 200).map(str), st.sampled_from("abc"), st.integers(0, 40).map(str)),
    max_size=80,
    unique_by=lambda member: member.digest,
)
sides = st.sampled_from(Split)


@given(
    members=members,
    known=st.dictionaries(st.integers(0, 200).map(str), sides),
    groups=st.dictionaries(st.integers(0, 40).map(str), sides, max_size=15),
    limit=st.sampled_from((0, 3, 20_000)),
)
def test_newcomers_get_what_a_look_at_all_images_gives_them(
    members: list[Member], known: dict[str, Split], groups: dict[str, Split], limit: int
) -> None:
    newcomers = [member for member in members if member.digest not in known]
    sizes = Counter(member.label for member in members)
    held_out = Counter(m.label for m in members if known.get(m.digest) is Split.HELD_OUT)
    tallies = {label: Tally(size, held_out[label]) for label, size in sizes.items()}
    expected = assign_sides(members, known, groups, limit=limit)
    assert sides_of_newcomers(newcomers, tallies, groups, limit=limit) == expected


def test_a_later_near_duplicate_follows_the_group_that_was_given_before() -> None:
    fingerprint = 0x0123_4567_89AB_CDEF
    giver = SideGiver({})
    given = giver.give([Newcomer("a", "first", fingerprint)], {"a": Tally(1, 0)})
    later = giver.give([Newcomer("b", "second", fingerprint ^ 0b11)], {"a": Tally(1, 0), "b": Tally(100, 0)})
    assert given["first"] == later["second"] == (Split.TRAIN, f"{fingerprint:016x}")
