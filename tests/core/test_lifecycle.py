"""The two tables: what a model may do next, and what a version is."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tlserve.core.lifecycle import MOVES, IllegalMove, Phase, VersionState, move, version_state

STORY = [
    Phase.IDLE,
    Phase.SETTLING,
    Phase.QUEUED,
    Phase.SCANNING,
    Phase.EXTRACTING,
    Phase.TRAINING,
    Phase.JUDGING,
    Phase.PUBLISHING,
    Phase.SWAPPING,
    Phase.IDLE,
]


def test_a_pass_walks_from_idle_to_idle() -> None:
    for old, new in pairwise(STORY):
        assert move("flowers", old, new) is new


@pytest.mark.parametrize("phase", Phase)
def test_staying_is_always_allowed_and_every_phase_has_a_way_out(phase: Phase) -> None:
    assert move("flowers", phase, phase) is phase
    assert MOVES[phase] - {phase}


@pytest.mark.parametrize("phase", STORY[3:9])
@pytest.mark.parametrize("end", [Phase.FAILED, Phase.WAITING, Phase.IDLE, Phase.QUEUED])
def test_work_may_end_at_any_step(phase: Phase, end: Phase) -> None:
    assert move("flowers", phase, end) is end


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (Phase.IDLE, Phase.TRAINING),
        (Phase.IDLE, Phase.SCANNING),
        (Phase.JUDGING, Phase.EXTRACTING),
        (Phase.SETTLING, Phase.SCANNING),
        (Phase.QUEUED, Phase.SWAPPING),
    ],
)
def test_other_moves_are_refused_by_name(old: Phase, new: Phase) -> None:
    with pytest.raises(IllegalMove, match=f"'flowers' cannot go from {old} to {new}"):
        move("flowers", old, new)


@pytest.mark.parametrize(
    ("number", "verdict", "state"),
    [
        (5, "promote", VersionState.LIVE),
        (3, "promote", VersionState.PREVIOUS),
        (1, "promote", VersionState.RETIRED),
        (2, "hold", VersionState.RETIRED),
        (4, "hold", VersionState.HELD),
        (6, "promote", VersionState.CANDIDATE),
    ],
)
def test_the_state_of_a_version(number: int, verdict: str, state: VersionState) -> None:
    found = version_state(number, live=5, previous=3, promoted=[1, 2, 3, 5], verdict=verdict)
    assert found is state
