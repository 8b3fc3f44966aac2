"""How long a batch is expected to take, learned from those that ran: what bounds the size of the next one.

Measured on a CPU (MobileNetV2, one thread): one image 7.6 ms, eight 62 ms. There a large batch gains
nothing, and everybody in it waits for all of it; on a GPU the second image is nearly free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LEARNING_RATE = 0.2
MOST_SURPRISE = 1.0
"""A run that took more than twice as long as expected counts as one that took twice as long: a thread
that lost its core for a moment says nothing about the next batch."""
LEAST_SECONDS = 1e-7
SECOND_LOOK = 128
"""One run in so many goes the way that is thought to be slower, to see whether it still is."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Expected seconds of a batch: `fixed_seconds` + rows x `row_seconds`. `after` gives a new one.

    Rows are those that the session really runs, filling up to a bucket included.
    """

    fixed_seconds: float
    row_seconds: float

    @classmethod
    def of(cls, few: tuple[int, float], many: tuple[int, float]) -> Pace:
        """From two runs (rows, seconds) of different size, such as a warm-up makes."""
        (n, small), (m, large) = few, many
        row = max((large - small) / (m - n), 0.1 * large / m, LEAST_SECONDS)
        return cls(max(small - n * row, LEAST_SECONDS), row)

    def seconds(self, rows: int) -> float:
        return self.fixed_seconds + rows * self.row_seconds

    def after(self, rows: int, seconds: float, *, most_surprise: float = MOST_SURPRISE) -> Pace:
        """What is expected once a batch of `rows` took `seconds`.

        Each part of the sum answers for the error by its share in it (normalised least mean squares, on
        relative errors): runs of different sizes teach both parts, runs of one size teach that size. Half
        the speed is learned in about 10 batches and unlearned in about 20.
        """
        expected = self.seconds(rows)
        surprise = min(seconds / expected - 1, most_surprise)
        fixed_share = self.fixed_seconds / expected
        row_share = 1 - fixed_share
        step = LEARNING_RATE * surprise / (fixed_share**2 + row_share**2)
        return Pace(
            max(self.fixed_seconds * (1 + step * fixed_share), LEAST_SECONDS),
            max(self.row_seconds * (1 + step * row_share), LEAST_SECONDS),
        )

    def rows_within(self, seconds: float, most: int, buckets: Sequence[int] = (), *, backlog: int = 1) -> int:
        """How many rows a batch may hold to be done in `seconds`: at least 1, at most `most`.

        buckets: sizes, ascending, to one of which the session fills every batch up; a batch then costs
        its bucket, so it may as well be full. backlog: so many may be in it even if that takes longer.
        Seconds of 0 mean no target.
        """
        if seconds <= 0:
            return most
        fitting = max(int((seconds - self.fixed_seconds) / self.row_seconds), backlog)
        if buckets:
            fitting = max((size for size in buckets if size <= fitting), default=buckets[0])
        return max(1, min(most, fitting))


def first_is_better(first: Pace, second: Pace, rows: int, turn: int) -> bool:
    """Which of two ways to run `rows` to take, the `turn`th time: the faster one, with a rare second look."""
    faster = first.seconds(rows) < second.seconds(rows)
    return not faster if turn % SECOND_LOOK == SECOND_LOOK - 1 else faster
