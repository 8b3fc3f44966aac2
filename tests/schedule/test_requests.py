"""Two wishes as one: nothing that either asked for gets lost, and whoever was told an id finds it again."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from tlserve.core.plan import Depth
from tlserve.schedule import PassRequest
from tlserve.schedule.requests import MOST_TOUCHED, Rank, all_touched, next_id

LOOK = PassRequest("look", "m")
CHANGE = PassRequest(
    "change", "m", 20.0, depth=Depth.INSTANT, touched=frozenset({"cat/1.jpg"}), settled_at=21.0
)
LATER = PassRequest("later", "m", 30.0, depth=Depth.INSTANT, touched=frozenset({"dog"}), settled_at=31.0)
RETRAIN = PassRequest("retrain", "m", accept_deletions=True, force=True)
PART = PassRequest("part", "m", 10.0, goes_on=True)

SETS = [None, *(frozenset(paths) for paths in ("", "a", "b", "ab", "bc"))]


def test_nothing_that_was_touched_is_lost_in_whatever_order_it_comes() -> None:
    for one, other, third in itertools.product(SETS, repeat=3):
        both = all_touched(one, other)
        assert both == all_touched(other, one)
        assert all_touched(both, third) == all_touched(one, all_touched(other, third))
        assert both == (None if one is None or other is None else one | other)


def test_a_long_list_of_touched_paths_becomes_a_look_at_everything() -> None:
    half = frozenset(map(str, range(MOST_TOUCHED)))
    assert all_touched(half, half) == half
    assert all_touched(half, frozenset({"one more"})) is None


@pytest.mark.parametrize(
    ("one", "newer", "depth"),
    [
        (LOOK, CHANGE, Depth.INSTANT),
        (CHANGE, LOOK, Depth.INSTANT),
        (PART, CHANGE, Depth.INSTANT),
        (CHANGE, RETRAIN, Depth.INSTANT),
        (RETRAIN, CHANGE, Depth.INSTANT),
        (LOOK, RETRAIN, Depth.QUICK),
        (LOOK, PART, Depth.QUICK),
    ],
)
def test_a_change_is_answered_fast_whatever_it_is_joined_with(
    one: PassRequest, newer: PassRequest, depth: Depth
) -> None:
    both = one.joined(newer)
    assert both.depth is depth
    assert both.touched is None  # each of these pairs has one that wants to look at everything
    assert both.force == (RETRAIN in (one, newer))
    assert both.accept_deletions == both.force


@pytest.mark.parametrize(
    ("request_", "rank"),
    [
        (CHANGE, Rank.CHANGE),
        (replace(CHANGE, interrupted=1), Rank.INTERRUPTED),
        (CHANGE.joined(RETRAIN), Rank.CHANGE),
        (PART.joined(CHANGE), Rank.CHANGE),
        (RETRAIN, Rank.ASKED),
        (LOOK.joined(RETRAIN), Rank.ASKED),
        (replace(LOOK, asked=True), Rank.ASKED),
        (PART.joined(RETRAIN), Rank.ASKED),
        (PART, Rank.PART),
        (LOOK.joined(PART), Rank.PART),
        (replace(PART, noticed_at=None), Rank.PART),
        (LOOK, Rank.LOOK),
    ],
)
def test_changes_go_before_what_people_ask_for_before_imports_before_looks(
    request_: PassRequest, rank: Rank
) -> None:
    assert request_.rank is rank
    assert request_.is_urgent == (rank is not Rank.LOOK)


def test_a_person_finds_the_job_again_that_was_told() -> None:
    assert RETRAIN.joined(CHANGE).job_id == "retrain"
    assert CHANGE.joined(RETRAIN).job_id == "retrain"
    interrupted = replace(CHANGE, job_id=next_id("change"), interrupted=1)
    assert interrupted.joined(RETRAIN).job_id == "retrain"


def test_an_id_that_a_trainer_died_over_is_kept_only_while_nothing_new_is_to_be_learnt() -> None:
    died = replace(RETRAIN, tried=True)
    assert died.joined(LOOK).job_id == "retrain"
    assert died.joined(CHANGE).job_id == "retrain-2"
    assert died.joined(replace(RETRAIN, job_id="again")).job_id == "again"


def test_later_attempts_are_numbered() -> None:
    assert [next_id("a"), next_id("a-2"), next_id("a-9"), next_id("a-b")] == ["a-2", "a-3", "a-10", "a-b-2"]
