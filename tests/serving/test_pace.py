"""What a batch is expected to take, and how large it may be."""

from __future__ import annotations

import random

import pytest

from tlserve.serving.pace import SECOND_LOOK, Pace, first_is_better

CPU = Pace(0.0002, 0.0075)
"""As MobileNetV2 on one thread: eight rows take eight times as long as one."""


@pytest.mark.parametrize(
    ("pace", "seconds", "most", "buckets", "rows"),
    [
        (CPU, 0.020, 32, (), 2),
        (CPU, 0.100, 32, (), 13),
        (CPU, 1.0, 32, (), 32),
        (CPU, 0.001, 32, (), 1),
        (CPU, 0.0, 32, (), 32),
        (Pace(0.5, 0.1), 0.020, 32, (), 1),
        (Pace(0.004, 0.0005), 0.020, 64, (1, 2, 4, 8, 16, 32, 64), 32),
        (Pace(0.004, 0.0005), 0.004, 64, (2, 4), 2),
        (Pace(0.004, 0.0005), 0.020, 24, (1, 2, 4, 8, 16, 32), 24),
    ],
)
def test_a_batch_is_as_large_as_the_target_allows(
    pace: Pace, seconds: float, most: int, buckets: tuple[int, ...], rows: int
) -> None:
    assert pace.rows_within(seconds, most, buckets) == rows


def test_a_long_line_allows_more_in_whole_buckets() -> None:
    assert CPU.rows_within(0.020, 32, backlog=7) == 7
    assert CPU.rows_within(0.020, 32, backlog=100) == 32
    assert CPU.rows_within(0.020, 32, (1, 2, 4, 8, 16, 32), backlog=7) == 4


@pytest.mark.parametrize(
    ("few", "many", "fixed", "row"),
    [
        ((1, 0.0076), (4, 0.0301), 0.0001, 0.0075),
        ((1, 0.005), (32, 0.020), 0.0045, 0.00048),
        ((1, 0.010), (4, 0.008), 0.0098, 0.0002),
        ((2, 0.0), (4, 0.0), 0.0, 0.0),
    ],
)
def test_two_runs_are_enough_to_begin(
    few: tuple[int, float], many: tuple[int, float], fixed: float, row: float
) -> None:
    pace = Pace.of(few, many)
    assert pace.fixed_seconds == pytest.approx(fixed, rel=0.05, abs=1e-6)
    assert pace.row_seconds == pytest.approx(row, rel=0.05, abs=1e-6)


def test_runs_of_different_sizes_teach_what_a_row_costs_and_what_a_run_costs() -> None:
    truth, pace = Pace(0.004, 0.0005), CPU
    draw = random.Random(0)
    for _ in range(400):
        rows = draw.choice((1, 2, 5, 16, 32))
        pace = pace.after(rows, truth.seconds(rows) * draw.uniform(0.9, 1.1))
    for rows in (1, 8, 32):
        assert pace.seconds(rows) == pytest.approx(truth.seconds(rows), rel=0.15)


@pytest.mark.parametrize("factor", [2.0, 0.5, 4.0])
def test_a_machine_that_slows_down_or_recovers_is_followed_within_some_batches(factor: float) -> None:
    pace = CPU
    for _ in range(30):
        pace = pace.after(2, CPU.seconds(2) * factor)
    assert pace.seconds(2) == pytest.approx(CPU.seconds(2) * factor, rel=0.05)


def test_one_stalled_run_hardly_counts() -> None:
    assert CPU.after(2, 10.0).seconds(2) < 1.3 * CPU.seconds(2)


def test_one_run_that_the_clock_did_not_see_hardly_counts() -> None:
    assert CPU.after(2, 0.0).seconds(2) > 0.7 * CPU.seconds(2)


def test_stalls_now_and_then_do_not_shrink_batches() -> None:
    pace, draw = CPU, random.Random(1)
    sizes = []
    for _ in range(500):
        stalled = draw.random() < 0.05
        pace = pace.after(2, CPU.seconds(2) * (10 if stalled else 1))
        sizes.append(pace.rows_within(0.020, 32))
    assert sum(size == 2 for size in sizes) > 450


def test_of_two_ways_the_faster_is_taken_and_the_other_is_looked_at_again_now_and_then() -> None:
    fast, slow = Pace(0.0, 0.004), Pace(0.0, 0.008)
    taken = [first_is_better(fast, slow, 1, turn) for turn in range(10 * SECOND_LOOK)]
    assert taken.count(False) == 10
    taken = [first_is_better(slow, fast, 1, turn) for turn in range(10 * SECOND_LOOK)]
    assert taken.count(True) == 10
