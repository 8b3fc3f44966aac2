"""When a model is ready, by an injected clock."""

from __future__ import annotations

import pytest

from tlserve.ingest import SettleTimer


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
    timer.changed("flowers", opened="1.jpg")
    clock.now += 0.3
    timer.changed("flowers", opened="2.jpg")
    assert timer.seconds_left() == pytest.approx(0.5)
    assert ready_after(timer, clock) == pytest.approx(0.5, abs=0.02)
    assert timer.take_ready() == []


def test_less_quiet_is_enough_when_every_file_was_closed(timer: SettleTimer, clock: Clock) -> None:
    timer.changed("flowers", opened="1.jpg")
    timer.changed("flowers", closed="1.jpg")
    assert ready_after(timer, clock) == pytest.approx(0.2, abs=0.02)


def test_one_open_file_holds_the_others(timer: SettleTimer, clock: Clock) -> None:
    timer.changed("flowers", opened="1.jpg")
    timer.changed("flowers", opened="2.jpg")
    timer.changed("flowers", closed="1.jpg")
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
    assert timer.take_ready() == [("flowers", noticed_at)]
    assert timer.changed("flowers")


def test_models_settle_apart(timer: SettleTimer, clock: Clock) -> None:
    timer.changed("flowers")
    clock.now += 0.15
    timer.changed("trees")
    clock.now += 0.1
    assert [model for model, _ in timer.take_ready()] == ["flowers"]
    assert timer.seconds_left() == pytest.approx(0.1)
