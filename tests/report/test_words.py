"""Numbers in the words of the page."""

from __future__ import annotations

import pytest

from tlserve.report import words


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        (0.012, "+1.2 points"),
        (-0.01, "−1.0 point"),
        (0.0, "±0.0 points"),
        (-0.0001, "±0.0 points"),
        (None, "–"),
    ],
)
def test_a_difference_has_its_sign(difference: float | None, said: str) -> None:
    assert words.points(difference) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.01234, "0.0123"),
        (4.9, "4.9"),
        (1.8e-7, "1.8e-07"),
        (0.0, "0"),
        (1234.6, "1,235"),
        (99.96, "100"),
        (-1.5, "−1.5"),
    ],
)
def test_a_number_has_three_figures(value: float, said: str) -> None:
    assert words.small(value) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.0042, "4.2 ms"),
        (0.0, "0.00 s"),
        (0.42, "0.42 s"),
        (12.34, "12.3 s"),
        (75, "1 min 15 s"),
        (7300, "2 h 1 min"),
        (None, "–"),
    ],
)
def test_seconds_are_told_in_a_fitting_unit(value: float | None, said: str) -> None:
    assert words.seconds(value) == said


def test_a_moment_is_told_with_its_zone_and_what_is_none_stays() -> None:
    assert words.moment("2026-01-02T03:04:05+00:00") == "2 January 2026, 03:04 UTC"
    assert words.moment("2026-01-02T03:04:05Z") == "2 January 2026, 03:04 UTC"
    assert words.moment("yesterday") == "yesterday"


def test_counts_take_the_plural() -> None:
    assert words.count(1, "image") == "1 image"
    assert words.count(2000, "class", "classes") == "2,000 classes"
    assert words.count(12) == "12"
