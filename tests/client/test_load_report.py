"""The numbers of a load run, checked by hand."""

from __future__ import annotations

import random
from array import array
from collections import Counter

import pytest

from tlserve.client.load_report import LoadSettings, Tally, percentile, summarised
from tlserve.core.errors import SettingsError

ADDRESS = "127.0.0.1:8001"


@pytest.mark.parametrize(
    ("n", "share", "expected"),
    [
        (1, 0.5, 1),
        (1, 0.999, 1),
        (2, 0.5, 1),
        (10, 0.9, 9),
        (100, 0.99, 99),
        (1000, 0.999, 999),
        (999, 0.999, 999),
    ],
)
def test_a_percentile_is_one_of_the_values(n: int, share: float, expected: int) -> None:
    assert percentile([float(rank) for rank in range(1, n + 1)], share) == expected


def test_the_processes_of_a_run_become_one_result() -> None:
    first = Tally(
        latency_seconds=array("d", [0.003, 0.001]),
        answers_in_time=2,
        versions=Counter({("m", "2"): 2}),
        measured_seconds=2.0,
        cpu_seconds=1.0,
    )
    second = Tally(
        latency_seconds=array("d", [0.002, 0.004]),
        answers_in_time=1,
        versions=Counter({("m", "1"): 1, ("m", "2"): 1}),
        errors=Counter({"NOT_FOUND": 3}),
        error_samples={"NOT_FOUND": "no such model"},
        measured_seconds=2.0,
        cpu_seconds=1.9,
    )
    result = summarised(LoadSettings(ADDRESS, processes=2), [first, second], batch=4)
    assert (result.requests_per_second, result.images_per_second) == (1.5, 6.0)
    assert result.answers == 4
    assert result.latency_ms is not None
    assert (result.latency_ms.p50, result.latency_ms.max) == (2.0, 4.0)
    assert result.latency_ms.mean == pytest.approx(2.5)
    assert [(one.version, one.answers) for one in result.versions] == [("1", 1), ("2", 3)]
    assert [(one.status, one.count, one.sample) for one in result.errors] == [
        ("NOT_FOUND", 3, "no such model")
    ]
    assert result.cpu_share == (0.5, 0.95)
    assert result.generator_is_ceiling
    assert result.sending is None


def test_the_order_of_the_answers_does_not_matter() -> None:
    seconds = [number / 1000 for number in range(1, 2001)]
    random.Random(0).shuffle(seconds)
    result = summarised(LoadSettings(ADDRESS), [Tally(latency_seconds=array("d", seconds))], batch=1)
    assert result.latency_ms is not None
    assert result.latency_ms.p99 == pytest.approx(1980)
    assert result.latency_ms.p99_9 == pytest.approx(1998)


def test_late_and_unsent_requests_of_an_open_loop_are_told() -> None:
    tally = Tally(late_seconds=array("d", [0.0001, 0.009, 0.02, 0.5]), unsent=3)
    sending = summarised(LoadSettings(ADDRESS, rate=5.0), [tally], batch=1).sending
    assert sending is not None
    assert (sending.planned, sending.late, sending.latest_ms, sending.unsent) == (7, 2, 500.0, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"clients": 0},
        {"processes": 0},
        {"clients": 2, "processes": 3},
        {"rate": 0.0},
        {"rate": float("nan")},
        {"seconds": 0.0},
        {"warm_up_seconds": -1.0},
        {"timeout_seconds": float("inf")},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError):
        LoadSettings(ADDRESS, **wrong)  # type: ignore[arg-type]
