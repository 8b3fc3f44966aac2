"""Promotion, rollback, pinning and retention, as pure functions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tlserve.core.errors import NotReady
from tlserve.core.lifecycle import Promotion
from tlserve.release import (
    LiveChange,
    LiveState,
    pinned,
    promoted,
    rolled_back,
    versions_to_retire,
    with_backbone,
    with_promotion,
    without_retired,
)
from tlserve.release.live import live_from_json, live_to_json


def after(*versions: int) -> LiveState:
    state = LiveState()
    for at, version in enumerate(versions):
        state = promoted(state, version, float(at), "better")
    return state


def test_a_promotion_makes_the_old_one_previous() -> None:
    state = promoted(after(1), 2, 7.0, "better", drop_to_live_seconds=1.5)
    assert (state.live, state.previous, state.promoted) == (2, 1, (1, 2))
    assert state.history[-1] == LiveChange(2, 7.0, "better", 1.5)


def test_a_rollback_after_a_refinement_leads_to_what_answered_before_the_fast_version() -> None:
    fast = promoted(after(1), 2, 7.0, "fast")
    state = promoted(fast, 3, 8.0, "better than the fast one", refines=True)
    assert (state.live, state.previous, state.promoted) == (3, 1, (1, 2, 3))
    assert rolled_back(state, 9.0).live == 1


def test_promoting_the_live_version_again_changes_nothing() -> None:
    assert promoted(after(1, 2), 2, 9.0, "told twice") == after(1, 2)


def test_a_rollback_returns_and_hands_the_decision_to_a_person() -> None:
    state = rolled_back(after(1, 2, 3), 9.0)
    assert (state.live, state.previous, state.promotion) == (2, 3, Promotion.MANUAL)
    assert state.promoted == (1, 3, 2)
    assert rolled_back(state, 10.0).live == 3


def test_there_is_nothing_to_roll_back_to_before_a_second_promotion() -> None:
    with pytest.raises(NotReady, match="no previous version"):
        rolled_back(after(1), 9.0)


def test_pins_come_and_go() -> None:
    state = pinned(pinned(pinned(after(1, 2), 2), 1), 2)
    assert state.pinned == (1, 2)
    assert pinned(state, 1, pinned=False).pinned == (2,)
    assert pinned(state, 7, pinned=False) == state


def test_promotion_returns_to_the_settings() -> None:
    assert with_promotion(rolled_back(after(1, 2), 1.0), None).promotion is None


def test_an_adopted_backbone_stays_through_promotions_until_it_is_given_back() -> None:
    state = promoted(with_backbone(after(1), "torchvision/resnet50"), 2, 9.0, "better")
    assert live_from_json(live_to_json(state)) == state
    assert state.backbone == "torchvision/resnet50"
    assert with_backbone(state, None) == replace(state, backbone=None)


def test_a_live_file_of_an_older_release_adopts_nothing() -> None:
    raw = json.loads(live_to_json(after(1, 2)))
    del raw["backbone"]
    assert live_from_json(json.dumps(raw).encode()) == after(1, 2)


@pytest.mark.parametrize("backbone", ["", 7, ["nano"]])
def test_a_live_file_with_another_kind_of_backbone_is_refused(backbone: object) -> None:
    raw = json.loads(live_to_json(after(1))) | {"backbone": backbone}
    with pytest.raises(ValueError, match="not the name of a backbone"):
        live_from_json(json.dumps(raw).encode())


def test_live_forgets_what_is_retired_and_old_history() -> None:
    state = without_retired(pinned(after(1, 2, 3), 1), [2, 3])
    assert (state.promoted, state.pinned) == ((2, 3), ())
    assert len(after(*range(1, 1_000)).history) == 200


ALL = range(1, 10)


@pytest.mark.parametrize(
    ("numbers", "state", "keep", "leased", "retired"),
    [
        pytest.param([], LiveState(), 3, [], [], id="nothing there"),
        pytest.param(ALL, after(*ALL), 3, [], [1, 2, 3, 4, 5, 6], id="the latest promoted stay"),
        pytest.param(ALL, after(*ALL), 9, [], [], id="room for all"),
        pytest.param(ALL, after(*ALL), 3, [2, 5], [1, 3, 4, 6], id="leased ones stay"),
        pytest.param(ALL, pinned(after(*ALL), 1), 3, [], [2, 3, 4, 5, 6], id="pinned ones stay"),
        pytest.param(ALL, after(*ALL), 0, [], [1, 2, 3, 4, 5, 6, 7], id="live and previous stay"),
        pytest.param(ALL, after(1, 2, 3), 4, [], [4, 5, 6, 7, 8], id="room left for one candidate"),
        pytest.param(ALL, after(1, 2, 3), 5, [], [4, 5, 6, 7], id="newest candidates stay longest"),
        pytest.param(ALL, after(1, 5, 9), 3, [], [2, 3, 4, 6, 7, 8], id="never promoted go first"),
        pytest.param(ALL, after(*range(1, 9)), 8, [], [], id="the newest stays although there is no room"),
        pytest.param(ALL, after(2, 3, 4, 1), 2, [], [2, 3, 5, 6, 7, 8], id="re-promoted counts as recent"),
        pytest.param([5, 6], after(1, 2, 5, 6), 2, [], [], id="those long gone take no room"),
        pytest.param(ALL, LiveState(), 3, [], [1, 2, 3, 4, 5, 6], id="nothing was ever promoted"),
    ],
)
def test_retention(
    numbers: Sequence[int], state: LiveState, keep: int, leased: list[int], retired: list[int]
) -> None:
    assert versions_to_retire(list(numbers), state, keep_versions=keep, leased=leased) == retired


def test_fast_versions_that_were_superseded_go_before_older_ones() -> None:
    state = after(1, 2, 3, 4, 5, 6)
    gone = versions_to_retire([1, 2, 3, 4, 5, 6], state, keep_versions=4, leased=[], fast=[3, 5])
    # Version 5 is the previous one: it stays whatever it is.
    assert gone == [3]
    assert versions_to_retire([1, 2, 3, 4, 5, 6], state, keep_versions=3, leased=[], fast=[2, 3]) == [1, 2, 3]
