"""Sides given to newcomers follow those of their near duplicates."""

from __future__ import annotations

from tlserve.core.split import Tally
from tlserve.core.types import Split
from tlserve.ingest.sides import Newcomer, SideGiver


def test_a_later_near_duplicate_follows_the_group_that_was_given_before() -> None:
    fingerprint = 0x0123_4567_89AB_CDEF
    giver = SideGiver({})
    given = giver.give([Newcomer("a", "first", fingerprint)], {"a": Tally(1, 0)})
    later = giver.give([Newcomer("b", "second", fingerprint ^ 0b11)], {"a": Tally(1, 0), "b": Tally(100, 0)})
    assert given["first"] == later["second"] == (Split.TRAIN, f"{fingerprint:016x}")
