"""How long a turn is, as a matter of arithmetic."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tlserve.core.lifecycle import Phase
from tlserve.core.messages import Progress
from tlserve.schedule import PassRequest
from tlserve.schedule.turns import Turn

LARGE = PassRequest("l", "large", 1.0)
SMALL = PassRequest("s", "small", 2.0)


def told(turn: Turn, phase: Phase, now: float, done: int = 0) -> None:
    turn.heard(Progress(turn.job_id, "large", phase, done, 100), now)


def test_a_turn_lasts_so_long_and_twice_as_long_after_each_doubling() -> None:
    assert Turn("l", 100.0, 1.0, LARGE).rest_seconds(100.25, 0) == 0.75
    assert Turn("l", 100.0, 1.0, LARGE).rest_seconds(101.5, 0) == 0.0
    assert Turn("l", 100.0, 1.0, replace(LARGE, doubled=3)).rest_seconds(101.0, 0) == 7.0


def test_nobody_is_granted_less_than_whoever_asks_for_room_would_get() -> None:
    assert Turn("l", 0.0, 1.0, LARGE).rest_seconds(1.0, 2) == 3.0


def test_what_a_trainer_takes_to_start_is_no_part_of_a_turn() -> None:
    turn = Turn("l", 0.0, 1.0, LARGE)
    told(turn, Phase.SCANNING, 5.0)
    assert turn.rest_seconds(5.5, 0) == 0.5


def test_publishing_is_never_interrupted_and_judging_not_before_a_turn_of_its_own() -> None:
    turn = Turn("l", 0.0, 1.0, LARGE)
    told(turn, Phase.TRAINING, 0.0)
    assert turn.rest_seconds(9.0, 0) == 0.0
    told(turn, Phase.JUDGING, 9.0)
    assert turn.rest_seconds(9.25, 0) == 0.75
    told(turn, Phase.PUBLISHING, 9.5)
    assert turn.rest_seconds(9.5, 0) == math.inf


def test_in_the_background_there_are_no_turns_but_judging_may_end() -> None:
    turn = Turn("l", 0.0, 1.0, replace(LARGE, refine=True), in_background=True)
    assert turn.rest_seconds(0.0, 5) == 0.0
    told(turn, Phase.JUDGING, 9.0)
    assert turn.rest_seconds(9.25, 0) == 0.75


@pytest.mark.parametrize(
    ("scanning", "extracting", "training", "doubled"),
    [
        (0.1, 0.9, 0.0, 1),  # nearly all of it is kept: half as long would do
        (0.4, 0.6, 0.0, 2),
        (0.6, 0.4, 0.0, 3),
        (0.1, 0.1, 0.8, 3),  # the fit is lost
        (0.1, 0.0, 0.9, 3),
        (1.0, 0.0, 0.0, 3),  # a look at files that are known
    ],
)
def test_a_turn_is_doubled_when_most_of_it_was_lost(
    scanning: float, extracting: float, training: float, doubled: int
) -> None:
    turn = Turn("l", 50.0, 1.0, replace(LARGE, doubled=2))
    now = 50.0
    told(turn, Phase.SCANNING, now)
    now += scanning
    if extracting:
        told(turn, Phase.EXTRACTING, now)
        now += extracting
        told(turn, Phase.EXTRACTING, now, done=8)
    if training:
        told(turn, Phase.TRAINING, now)
        now += training
    back = turn.set_aside(now)
    assert (back.doubled, back.interrupted, back.job_id) == (doubled, 1, "l-2")
    assert (back.noticed_at, back.model) == (1.0, "large")


@pytest.mark.parametrize(
    ("running", "waiting", "makes_room"),
    [
        (LARGE, SMALL, True),
        (LARGE, replace(SMALL, interrupted=3), True),
        (LARGE, replace(SMALL, model="large"), False),
        (LARGE, PassRequest("r", "small", force=True), False),
        (replace(LARGE, goes_on=True), PassRequest("r", "small", force=True), True),
        (LARGE, replace(SMALL, goes_on=True), False),
        (LARGE, PassRequest("k", "small"), False),
        (PassRequest("k", "large"), SMALL, True),
        (PassRequest("k", "large"), replace(SMALL, model="large"), True),
        (PassRequest("k", "large"), PassRequest("r", "small", asked=True), True),
        (PassRequest("r", "large", force=True), SMALL, True),
    ],
)
def test_who_makes_room_for_whom(running: PassRequest, waiting: PassRequest, makes_room: bool) -> None:
    assert Turn("l", 0.0, 1.0, running).may_be_interrupted_by(waiting) is makes_room


def test_in_the_background_everything_makes_room_for_whatever_is_urgent() -> None:
    turn = Turn("l", 0.0, 1.0, replace(LARGE, refine=True), in_background=True)
    assert turn.may_be_interrupted_by(replace(SMALL, model="large"))
    assert turn.may_be_interrupted_by(PassRequest("r", "small", force=True))
    assert not turn.may_be_interrupted_by(PassRequest("k", "small"))
