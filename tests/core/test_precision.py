"""When a faster build takes the place of the fp32 one."""

from __future__ import annotations

import pytest

from tlserve.core.precision import Precision, PrecisionTrial, decided, is_fast_enough, undecidable


def verdict(times: float, accuracies: tuple[float, float] | None) -> PrecisionTrial:
    return decided(
        Precision.INT8,
        images_per_second=100.0,
        times_as_fast=times,
        accuracies=accuracies,
        n_images=1000,
        hardware="a processor",
        decided_at=1.0,
    )


@pytest.mark.parametrize(
    ("times", "accuracies", "chosen"),
    [
        (1.9, (0.885, 0.884), "int8"),
        (1.3, (0.885, 0.882), "int8"),  # exactly at both bounds
        (1.3, (0.803, 0.8), "int8"),
        (1.29, (0.885, 0.885), "fp32"),
        (1.9, (0.885, 0.8819), "fp32"),
        (3.0, (0.5, 0.4), "fp32"),
        (1.4, (0.5, 0.9), "int8"),
        (1.0, (0.5, 0.9), "fp32"),
        (1.1, None, "fp32"),
    ],
)
def test_it_must_be_faster_by_far_and_lose_next_to_nothing(
    times: float, accuracies: tuple[float, float] | None, chosen: str
) -> None:
    trial = verdict(times, accuracies)
    assert (trial.chosen, trial.tried) == (chosen, "int8")
    assert trial.images_per_second_tried == pytest.approx(100 * times)


def test_the_verdict_is_said_with_its_numbers() -> None:
    taken = verdict(1.9, (0.885, 0.884))
    assert taken.reason == "int8: 88.4 % against 88.5 %, 1.9 times as fast; taken"
    assert (taken.accuracy, taken.accuracy_tried) == (0.885, 0.884)
    worse = verdict(1.9, (0.9, 0.88))
    assert worse.reason.endswith(
        "88.0 % against 90.0 %, 1.9 times as fast; not taken: it may lose 0.3 points at most"
    )
    assert verdict(1.1, None).reason == "int8: 1.1 times as fast; not taken: 1.3 times is asked for"


def test_speed_is_looked_at_first() -> None:
    assert is_fast_enough(1.3)
    assert not is_fast_enough(1.29)


def test_where_nothing_can_be_tried_it_stays_fp32_with_the_reason() -> None:
    trial = undecidable("no VNNI", hardware="old", decided_at=2.0)
    assert (trial.chosen, trial.tried, trial.reason, trial.accuracy) == ("fp32", "", "no VNNI", None)
