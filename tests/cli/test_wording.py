"""Numbers in the words people use."""

from __future__ import annotations

import pytest

from tlserve.cli import wording


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.4249, "0.42 s"),
        (42.04, "42.0 s"),
        (75, "1 min 15 s"),
        (3661, "1 h 1 min"),
        (7200, "2 h 0 min"),
    ],
)
def test_seconds_grow_into_minutes_and_hours(value: float | None, text: str) -> None:
    assert wording.seconds(value) == text


def test_shares_are_percentages_and_what_is_not_known_is_a_dash() -> None:
    assert wording.share(0.92149) == "92.1 %"
    assert wording.share(None) == "-"
    assert wording.interval(0.9, 0.951) == "90.0 to 95.1 %"
    assert wording.interval(None, 0.9) == ""


def test_counts_know_their_plural() -> None:
    assert wording.count(1, "image") == "1 image"
    assert wording.count(2000, "image") == "2,000 images"
    assert wording.count(3, "class", "classes") == "3 classes"


def test_a_rate_leaves_out_what_is_not_known() -> None:
    assert wording.rate(120, 2934, 210.4, 13.4) == "120 of 2,934, 210/s, 13.4 s left"
    assert wording.rate(0, 0, None, None) == ""
    assert wording.rate(7, 7, None, 0.0) == "7 of 7"


def test_text_that_is_no_moment_is_shown_as_it_is() -> None:
    assert wording.local_time("yesterday") == "yesterday"
    assert wording.local_time("2026-01-02T03:04:05+00:00").endswith(":04:05")
