"""Which backbone is recommended, and which ones are worth considering."""

from __future__ import annotations

from typing import Any

import pytest

from tlserve.report import choose
from tlserve.report.choice import pareto_front


def row(backbone: str, accuracy: float | None, predict_ms: float | None, **more: Any) -> dict[str, Any]:
    """Half a point is one standard error."""
    low, high = (None, None) if accuracy is None else (accuracy - 0.0098, accuracy + 0.0098)
    spread = {"accuracy_low": low, "accuracy_high": high}
    return {"backbone": backbone, "accuracy": accuracy, "predict_ms": predict_ms, **spread, **more}


@pytest.mark.parametrize(
    ("rows", "taken", "said"),
    [
        ([row("slow", 0.92, 20), row("quick", 0.916, 2), row("poor", 0.90, 1)], "quick", "within chance"),
        ([row("slow", 0.92, 20), row("quick", 0.90, 2)], "slow", "more than chance explains"),
        ([row("best", 0.92, 2), row("near", 0.919, 9)], "best", "costs least of those near it"),
        ([row("first", 0.92, 2), row("failed", 0.99, 1, error="no weights")], "first", "the only one"),
        ([row("one", 0.92, None), row("two", 0.918, None)], "one", "best accuracy"),
        ([row("one", 0.92, None, graph_mb=90), row("two", 0.918, None, graph_mb=5)], "two", "5 MB"),
    ],
)
def test_the_cheapest_within_chance_of_the_best_is_taken(
    rows: list[dict[str, Any]], taken: str, said: str
) -> None:
    for given in (rows, rows[::-1]):
        choice = choose(given)
        assert choice is not None
        assert choice.backbone == taken
        assert said in choice.reason


def test_without_intervals_only_the_best_is_taken() -> None:
    rows = [
        {"backbone": "best", "accuracy": 0.92, "predict_ms": 50},
        {"backbone": "near", "accuracy": 0.919, "predict_ms": 1},
    ]
    choice = choose(rows)
    assert choice is not None
    assert choice.backbone == "best"


def test_where_nothing_was_measured_nothing_is_recommended() -> None:
    assert choose([]) is None
    assert choose([row("a", None, 3), row("b", 0.9, 3, error="broken")]) is None


def test_the_front_holds_those_that_no_other_beats_in_both() -> None:
    rows = [
        row("tiny", 0.80, 1),
        row("worse", 0.79, 2),
        row("middle", 0.90, 3),
        row("same but dearer", 0.90, 4),
        row("best", 0.92, 9),
        row("unmeasured", 0.99, None),
        row("failed", 0.99, 1, error="broken"),
    ]
    assert pareto_front(rows, "predict_ms") == ["tiny", "middle", "best"]
    assert pareto_front(rows, "graph_mb") == []
