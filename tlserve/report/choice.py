"""Which backbone of a comparison to take: nearly the best accuracy, at the least cost.

Pure functions of the rows. "Nearly" is one standard error of the best row: what chance alone may explain
between equals, and small enough that nobody gives much away (Breiman et al. 1984 choose trees so).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tlserve.core.judge import Z95_TWO_SIDED
from tlserve.report import words
from tlserve.report.reading import Json, number, text

COSTS = ("predict_ms", "extract_seconds", "graph_mb")
"""What a backbone costs, the most felt first."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The row to take, and why in one sentence."""

    backbone: str
    reason: str


def choose(rows: Sequence[Json]) -> Choice | None:
    """The cheapest of those whose accuracy is within chance of the best; None where no row has one."""
    usable = [row for row in rows if not row.get("error") and number(row.get("accuracy")) is not None]
    if not usable:
        return None
    best = max(usable, key=_accuracy)
    margin = _standard_error(best)
    near = [row for row in usable if _accuracy(row) >= _accuracy(best) - margin]
    cost = next((name for name in COSTS if all(number(row.get(name)) is not None for row in near)), None)
    taken = best if cost is None else min(near, key=lambda row: (number(row[cost]), -_accuracy(row)))
    if len(usable) == 1:
        return Choice(text(best.get("backbone")), _only(best, cost))
    return Choice(text(taken.get("backbone")), _reason(taken, best, len(near), margin, cost))


def pareto_front(rows: Sequence[Json], cost: str) -> list[str]:
    """The backbones that no other beats in both accuracy and `cost`, the cheapest first."""
    priced = [
        (price, -accuracy, text(row.get("backbone")))
        for row in rows
        if not row.get("error")
        and (price := number(row.get(cost))) is not None
        and (accuracy := number(row.get("accuracy"))) is not None
    ]
    front: list[str] = []
    best = float("-inf")
    for _, negative, backbone in sorted(priced):
        if -negative > best:
            front.append(backbone)
            best = -negative
    return front


def _accuracy(row: Json) -> float:
    return number(row.get("accuracy")) or 0.0


def _standard_error(row: Json) -> float:
    low, high = number(row.get("accuracy_low")), number(row.get("accuracy_high"))
    return 0.0 if low is None or high is None else (high - low) / (2 * Z95_TWO_SIDED)


def _only(row: Json, cost: str | None) -> str:
    said = "" if cost is None else f" ({_cost_text(row, cost)})"
    taking, accuracy = text(row.get("backbone")), words.percent(_accuracy(row))
    return f"We would take {taking}, the only one that could be measured: {accuracy}{said}."


def _reason(taken: Json, best: Json, n_near: int, margin: float, cost: str | None) -> str:
    taking = f"We would take {text(taken.get('backbone'))}"
    accuracy = words.percent(_accuracy(taken))
    said = "" if cost is None else f" ({_cost_text(taken, cost)})"
    if n_near == 1:
        return f"{taking}: its accuracy, {accuracy}, is the best by more than chance explains{said}."
    if taken is best:
        return f"{taking}: it has the best accuracy, {accuracy}, and costs least of those near it{said}."
    return (
        f"{taking}: its accuracy, {accuracy}, is within chance ({words.points(margin)[1:]}) of the best, "
        f"{text(best.get('backbone'))} with {words.percent(_accuracy(best))}, and it costs less: "
        f"{_cost_text(taken, cost)} instead of {_cost_text(best, cost)}."
    )


def _cost_text(row: Json, cost: str | None) -> str:
    value = number(row.get(cost)) if cost else None
    if cost == "predict_ms":
        return f"{words.small(value)} ms per prediction"
    if cost == "extract_seconds":
        return f"{words.seconds(value)} to extract"
    return f"a graph of {words.small(value)} MB"
