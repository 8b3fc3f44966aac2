"""What the costlier means gained: augmented views, mixtures of images, fine-tuning of the backbone.

Each function reads one part of a report and returns what the page shows of it, or None where it is missing.
"""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from tlserve.report import charts, words
from tlserve.report.reading import Json, first, flat, number, objects, part, text, texts, whole

EPOCHS_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Augmentation:
    policy: str
    views: int
    without: float | None
    with_views: float | None
    gain: float | None
    standard_error: float | None
    is_kept: bool | None
    reason: str
    strips: tuple[Markup, Markup]
    scale: str


@dataclass(frozen=True, slots=True)
class Tuning:
    reason: str
    facts: list[tuple[str, str]]
    chart: Markup | None
    epochs: list[tuple[str, str, str, str]]


def augmentation(report: Json) -> Augmentation | None:
    """What augmented views gained, kept or not."""
    found = part(report, "augmentation")
    without, with_views = number(found.get("accuracy_without")), number(found.get("accuracy_with"))
    gain = number(found.get("gain"))
    if not found or (gain is None and not text(found.get("reason"))):
        return None
    scale = charts.Scale.of((without, with_views))
    kept = found.get("kept")
    return Augmentation(
        policy=text(found.get("policy")) or ", ".join(texts(found.get("policy"))),
        views=whole(found.get("views")),
        without=without,
        with_views=with_views,
        gain=gain,
        standard_error=number(found.get("standard_error")),
        is_kept=kept if isinstance(kept, bool) else None,
        reason=text(found.get("reason")),
        strips=(scale.strip(without), scale.strip(with_views)),
        scale=str(scale),
    )


def mixup(report: Json) -> str:
    """What mixtures of two images' rows gained, in one sentence; "" where it was not tried."""
    found = part(report, "training", "mixup")
    if not found:
        return ""
    if reason := text(found.get("reason")):
        return reason
    gain, kept = number(first(found, "accuracy_gain", "gain")), found.get("kept")
    said = "" if gain is None else f": {words.points(gain)}"
    return f"Mixtures of two images' rows were tried{said}; {'kept' if kept else 'not kept'}."


def tuning(report: Json) -> Tuning | None:
    """The fine-tuning, epoch by epoch."""
    found = part(report, "tuning")
    if not found:
        return None
    epochs = objects(found.get("epochs"))[:EPOCHS_SHOWN]
    points = [
        charts.Point(float(whole(one.get("epoch"))), accuracy, title=_epoch_title(one, accuracy))
        for one in epochs
        if (accuracy := number(one.get("accuracy"))) is not None
    ]
    points.sort(key=lambda point: point.x)
    chart = None
    if len(points) > 1:
        chart = charts.line_chart(
            points,
            title="Validation accuracy by epoch",
            description="; ".join(point.title for point in points),
            x_label="epoch",
            y_label="accuracy",
        )
    facts = [(name, value) for name, value in _facts(found) if name != "reason"]
    return Tuning(text(found.get("reason")), facts, chart, [_epoch_row(one) for one in epochs])


def _epoch_title(one: Json, accuracy: float) -> str:
    return f"epoch {whole(one.get('epoch'))}: {words.percent(accuracy)}"


def _epoch_row(one: Json) -> tuple[str, str, str, str]:
    return (
        words.count(whole(one.get("epoch"))),
        words.small(number(one.get("loss"))),
        words.percent(number(one.get("accuracy"))),
        words.seconds(number(one.get("seconds"))),
    )


def _facts(values: Json) -> list[tuple[str, str]]:
    facts = []
    for name, value in flat(values).items():
        if name.endswith("seconds") and not isinstance(value, str):
            facts.append(
                (words.spaced(name.removesuffix("seconds").rstrip("_")) or "time", words.seconds(value))
            )
        else:
            facts.append((words.spaced(name), words.value_text(value)))
    return facts
