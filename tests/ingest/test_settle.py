"""When a model is ready, by an injected clock."""

from __future__ import annotations

import pytest

from tlserve.ingest import SettleTimer
from tlserve.ingest.settle import MOST_TOUCHED


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timer(clock: Clock) -> SettleTimer:
    return SettleTimer(settle_seconds=0.5, max_wait_seconds=10, clock=clock, wall_clock=lambda: clock() + 1e9)


def ready_after(timer: SettleTimer, clock: Clock) -> float:
    """Seconds from now until something is ready, in steps of 10 ms."""
    started = clock.now
    while not timer.take_ready():
        clock.now += 0.01
        assert clock.now < started + 60
    return clock.now - started


def test_nothing_is_ready_before_a_change(timer: SettleTimer) -> None:
    assert timer.take_ready() == []
    assert timer.seconds_left() is None


def test_a_model_is_ready_once_it_was_quiet(timer: SettleTimer, clock: Clock) -> None:
    timer.changed("flowers", "1.jpg", growing=True)
    clock.now += 0.3
    timer.changed("flowers", "2.jpg", growing=True)
    assert timer.seconds_left() == pytest.approx(0.5)
    assert ready_after(timer, clock) == pytest.approx(0.5, abs=0.02)
    assert timer.take_ready() == []


def test_a_tenth_of_a_second_is_enough_when_every_file_was_closed(timer: SettleTimer, clock: Clock) -> None:
    timer.changed("flowers", "1.jpg", growing=True)
    timer.changed("flowers", "1.jpg", growing=False)
    assert ready_after(timer, clock) == pytest.approx(0.1, abs=0.02)


def test_one_open_file_holds_the_others(timer: SettleTimer, clock: Clock) -> None:
    timer.changed("flowers", "1.jpg", growing=True)
    timer.changed("flowers", "2.jpg", growing=True)
    timer.changed("flowers", "1.jpg", growing=False)
    assert ready_after(timer, clock) == pytest.approx(0.5, abs=0.02)


def test_steady_drops_do_not_starve(timer: SettleTimer, clock: Clock) -> None:
    started = clock.now
    while not timer.take_ready():
        timer.changed("flowers")
        clock.now += 0.1
        assert clock.now < started + 11
    assert clock.now - started == pytest.approx(10, abs=0.2)


def test_the_first_change_is_what_was_noticed(timer: SettleTimer, clock: Clock) -> None:
    noticed_at = 1e9 + clock.now
    assert timer.changed("flowers")
    clock.now += 0.1
    assert not timer.changed("flowers")
    clock.now += 1
    assert timer.take_ready() == [("flowers", noticed_at, None)]
    assert timer.changed("flowers")


def test_models_settle_apart(timer: SettleTimer, clock: Clock) -> None:
    timer.changed("flowers", "1.jpg", growing=False)
    clock.now += 0.06
    timer.changed("trees", "1.jpg", growing=False)
    clock.now += 0.05
    assert [settled.model for settled in timer.take_ready()] == ["flowers"]
    assert timer.seconds_left() == pytest.approx(0.05)


def test_what_is_not_known_to_be_closed_takes_its_time(timer: SettleTimer, clock: Clock) -> None:
    timer.changed("flowers", "1.jpg", growing=False)
    timer.changed("flowers", growing=False)
    assert ready_after(timer, clock) == pytest.approx(0.5, abs=0.02)


def test_a_shorter_quiet_than_that_is_kept(clock: Clock) -> None:
    timer = SettleTimer(settle_seconds=0.05, max_wait_seconds=10, clock=clock, wall_clock=clock)
    timer.changed("flowers", "1.jpg", growing=False)
    assert ready_after(timer, clock) == pytest.approx(0.05, abs=0.02)


def touched(timer: SettleTimer, clock: Clock) -> frozenset[str] | None:
    clock.now += 1
    (settled,) = timer.take_ready()
    return settled.touched


def test_what_changed_is_told_once(timer: SettleTimer, clock: Clock) -> None:
    timer.changed("flowers", "daisy/1.jpg", growing=True)
    timer.changed("flowers", "daisy/1.jpg", growing=False)
    timer.changed("flowers", "roses")
    assert touched(timer, clock) == {"daisy/1.jpg", "roses"}
    timer.changed("flowers", "daisy/2.jpg", growing=False)
    assert touched(timer, clock) == {"daisy/2.jpg"}


def test_one_change_that_is_not_known_may_be_anywhere(timer: SettleTimer, clock: Clock) -> None:
    for path in ("daisy/1.jpg", None, "daisy/2.jpg"):
        timer.changed("flowers", path)
    assert touched(timer, clock) is None


def test_too_many_changes_are_not_told_apart(timer: SettleTimer, clock: Clock) -> None:
    for number in range(MOST_TOUCHED):
        timer.changed("flowers", f"daisy/{number}.jpg", growing=False)
    assert len(touched(timer, clock) or ()) == MOST_TOUCHED
    for number in range(MOST_TOUCHED + 1):
        timer.changed("flowers", f"daisy/{number}.jpg", growing=False)
    assert touched(timer, clock) is None
