"""How far the numbers can be trusted: are the probabilities honest, and would more images help?

Each function reads one part of a report and returns what the page shows of it, or None where it is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tlserve.core.judge import wilson_interval
from tlserve.report import charts, words
from tlserve.report.classes import SIDES
from tlserve.report.reading import Json, first, number, objects, part, text, whole

HARMLESS = 0.01
"""A calibration error that lies this little above what chance explains misleads nobody."""


@dataclass(frozen=True, slots=True)
class Calibration:
    charts: list[tuple[str, Markup]]
    scores: list[tuple[str, ...]]
    """Where, ECE, ECE by chance alone, NLL, Brier score."""
    temperature: float | None
    before_after: list[tuple[str, float, float]]
    answer: str
    """To the question whether the probabilities can be believed; "" where the scores do not tell."""

    @property
    def has_chance(self) -> bool:
        return any(one[2] != words.NOTHING for one in self.scores)


@dataclass(frozen=True, slots=True)
class Curve:
    chart: Markup
    reading: str
    rows: list[tuple[str, str, str]]


def calibration(report: Json) -> Calibration | None:
    """How honest the probabilities are, as drawn and as scores, and what the temperature changed."""
    drawn: list[tuple[str, Markup]] = []
    scores: list[tuple[str, ...]] = []
    for side, name in SIDES.items():
        found = part(report, "evaluation", side)
        bins = list(_bins(objects(found.get("reliability"))))
        if any(one.count for one in bins):
            drawn.append((name, _reliability(name, bins)))
        if number(found.get("ece")) is not None:
            errors = (words.percent(number(found.get(key))) for key in ("ece", "ece_by_chance"))
            scores.append((name, *errors, *(words.small(number(found.get(key))) for key in ("nll", "brier"))))
    training = part(report, "training")
    fold = part(training, "out_of_fold")
    pairs = (
        (name, number(fold.get(f"{key}_before")), number(fold.get(f"{key}_after")))
        for name, key in (("ECE", "ece"), ("NLL", "nll"))
    )
    changed = [(name, a, b) for name, a, b in pairs if a is not None and b is not None]
    if not drawn and not scores and not changed:
        return None
    temperature = number(training.get("temperature"))
    return Calibration(drawn, scores, temperature, changed, _answer(report))


def _answer(report: Json) -> str:
    """Out of fold, where there are most images, else on the held-out ones."""
    for side in ("out_of_fold", "held_out"):
        found = part(report, "evaluation", side)
        error, chance = number(found.get("ece")), number(found.get("ece_by_chance"))
        if error is None or chance is None:
            continue
        if error <= chance + HARMLESS:
            return "Yes: they are no further off than chance alone makes a perfectly honest model seem."
        how = "too sure of itself" if _excess(found) > 0 else "too modest"
        by = f"by {words.percent(error)} on average; chance explains {words.percent(chance)}"
        return f"Not quite: the model is {how}, {by}."
    return ""


def _excess(scores: Json) -> float:
    """Confidence above accuracy, summed over the answers."""
    return sum(
        whole(one.get("count")) * (confidence - accuracy)
        for one in objects(scores.get("reliability"))
        if (confidence := number(one.get("confidence"))) is not None
        and (accuracy := number(one.get("accuracy"))) is not None
    )


def _bins(found: Sequence[Json]) -> Iterator[charts.Bin]:
    for one in found:
        low, high = number(first(one, "low", "lower")), number(first(one, "high", "upper"))
        if low is None or high is None:
            continue
        count, accuracy = whole(one.get("count")), number(one.get("accuracy"))
        share = f"{words.percent(low, 0)} to {words.percent(high, 0)} sure"
        if not count or accuracy is None:
            yield charts.Bin(low, high, 0.0, 0.0, 0.0, 0, f"no answer {share}")
            continue
        bottom, top = wilson_interval(round(accuracy * count), count)
        title = f"{words.count(count, 'answer')} {share}: {words.percent(accuracy)} right"
        yield charts.Bin(low, high, accuracy, bottom, top, count, title)


def _reliability(name: str, bins: Sequence[charts.Bin]) -> Markup:
    said = "; ".join(one.title for one in bins if one.count)
    return charts.reliability_chart(bins, title=f"Reliability on {name}", description=said)


def curve(report: Json) -> Curve | None:
    """Accuracy by number of pictures; needs two points."""
    found = part(report, "learning_curve")
    points = sorted(_curve_points(objects(found.get("points"))), key=lambda point: point.x)
    if len(points) < 2 or points[0].x <= 0:
        return None
    chart = charts.line_chart(
        points,
        title="Accuracy by number of training images",
        description="; ".join(point.title for point in points),
        x_label="training images",
        y_label="accuracy",
        log_x=points[-1].x >= 4 * points[0].x,
    )
    rows = [
        (words.count(p.x), words.percent(p.y), words.interval(p.low, p.high) or words.NOTHING) for p in points
    ]
    return Curve(chart, text(found.get("reading")), rows)


def _curve_points(found: Sequence[Json]) -> Iterator[charts.Point]:
    for one in found:
        n_images, accuracy = number(one.get("n_images")), number(one.get("accuracy"))
        if n_images is None or accuracy is None:
            continue
        low, high = number(one.get("low")), number(one.get("high"))
        spread = words.interval(low, high)
        title = f"{words.count(n_images, 'image')}: {words.percent(accuracy)}"
        yield charts.Point(n_images, accuracy, low, high, title + (f" ({spread})" if spread else ""))
