"""What people are told while a model is worked on."""

from __future__ import annotations

import pytest

from tlserve.app.board import Board
from tlserve.core.lifecycle import IllegalMove, Phase
from tlserve.core.messages import PassDone, ProblemNote, Progress, SnapshotTaken
from tlserve.rpc.backend import ModelEvent


@pytest.fixture
def told() -> list[ModelEvent]:
    return []


@pytest.fixture
def board(told: list[ModelEvent]) -> Board:
    return Board(told.append)


def taken(*problems: ProblemNote, opened: int = 3) -> SnapshotTaken:
    return SnapshotTaken("j", "m", "s", 3, {"a": 2, "b": 1}, len(problems), problems, opened)


def test_a_pass_is_told_from_hint_to_end(board: Board, told: list[ModelEvent]) -> None:
    board.hinted("m")
    board.queued("m")
    board.progressed(Progress("j", "m", Phase.SCANNING))
    board.snapshot(taken())
    board.progressed(Progress("j", "m", Phase.EXTRACTING, 1, 3, 10.0, 0.2))
    board.progressed(Progress("j", "m", Phase.TRAINING))
    board.swapping("m", 4)
    board.ended(PassDone("j", "m", "published", "first version", version=4, promote=True))
    assert [event.phase for event in told] == ["settling", "scanning", "extracting", "training", "swapping"]
    assert "1 of 3, 10 images/s, 0 s left" in told[2].message
    assert board.now("m").phase is Phase.IDLE
    assert board.now("m").counts == {"a": 2, "b": 1}


def test_a_routine_look_at_an_unchanged_folder_is_no_news(board: Board, told: list[ModelEvent]) -> None:
    board.queued("m")
    board.progressed(Progress("j", "m", Phase.SCANNING))
    board.snapshot(taken(opened=0))
    board.ended(PassDone("j", "m", "unchanged", "nothing changed since version 1"))
    assert told == []


def test_a_problem_is_told_once(board: Board, told: list[ModelEvent]) -> None:
    note = ProblemNote("bad_image", "a/x.jpg", "truncated")
    for _ in range(3):
        board.snapshot(taken(note, opened=0))
    assert [event.message for event in told] == ["a/x.jpg: truncated"]


def test_a_model_that_waits_says_so_once_and_without_its_name_twice(
    board: Board, told: list[ModelEvent]
) -> None:
    for _ in range(3):
        board.queued("m")
        board.progressed(Progress("j", "m", Phase.SCANNING))
        board.ended(PassDone("j", "m", "waiting", "model 'm': two classes are needed"))
    assert [event.message for event in told] == ["two classes are needed"]


def test_a_hint_does_not_hide_running_work(board: Board) -> None:
    board.queued("m")
    board.progressed(Progress("j", "m", Phase.SCANNING))
    board.progressed(Progress("j", "m", Phase.EXTRACTING))
    board.hinted("m")
    assert board.now("m").phase is Phase.EXTRACTING


def test_phases_do_not_go_backwards(board: Board) -> None:
    board.queued("m")
    board.progressed(Progress("j", "m", Phase.SCANNING))
    board.progressed(Progress("j", "m", Phase.TRAINING))
    with pytest.raises(IllegalMove):
        board.progressed(Progress("j", "m", Phase.SCANNING))
