"""The way of a change from the folder to the answer."""

from __future__ import annotations

from tlserve.core.timeline import STEPS, steps

PHASES = {"training": 0.3, "queued": 0.0, "scanning": 0.05, "settling": 0.2, "publishing": 0.01}


def test_steps_come_in_their_order_and_those_not_taken_are_left_out() -> None:
    assert list(steps(PHASES)) == ["settled", "started", "digested", "fitted", "published"]
    assert STEPS[0] == "settled"
    assert STEPS[-1] == "live"


def test_what_no_phase_accounts_for_is_the_way_from_the_disk_to_the_answer() -> None:
    assert steps(PHASES, 0.6)["live"] == 0.04
    assert steps(PHASES, 0.5)["live"] == 0.0


def test_what_went_before_the_pass_is_not_taken_for_its_last_step() -> None:
    assert "live" not in steps({"training": 0.3}, 60.0)
