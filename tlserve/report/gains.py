"""What the costlier means gained: augmented views, mixtures of images, fine-tuning of the backbone.

Each function reads one part of a report and returns what the page shows of it, or None where it is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tlserve.report import charts, words
from tlserve.report.facts import Fact, all_facts_of, facts_of
from tlserve.report.reading import Json, first, number, objects, part, text, texts, whole

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
    notes: list[str]
    facts: list[Fact]
    options: list[Fact]
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
        reason=_sentence(text(found.get("reason"))),
        strips=(scale.strip(without), scale.strip(with_views)),
        scale=str(scale),
    )


def mixup(report: Json) -> str:
    """What mixtures of two images' rows gained, in one sentence; "" where it was not tried."""
    found = part(report, "training", "mixup")
    if not found:
        return ""
    if reason := text(found.get("reason")):
        return _sentence(reason)
    gain, kept = number(first(found, "accuracy_gain", "gain")), found.get("kept")
    said = "" if gain is None else f": {words.points(gain)}"
    return f"Mixtures of two images were tried{said}; {'kept' if kept else 'not kept'}."


def tuning(report: Json) -> Tuning | None:
    """The fine-tuning, epoch by epoch."""
    found = part(report, "tuning")
    if not found:
        return None
    epochs = objects(found.get("epochs"))[:EPOCHS_SHOWN]
    return Tuning(
        reason=_sentence(text(found.get("reason"))),
        notes=[_sentence(one) for one in texts(found.get("notes"))],
        facts=facts_of(found, without=frozenset({"reason", "notes", "epochs"})),
        options=all_facts_of(part(found, "options")),
        chart=_epochs_chart(epochs),
        epochs=[_epoch_row(one) for one in epochs],
    )


def _epochs_chart(epochs: Sequence[Json]) -> Markup | None:
    points = [
        charts.Point(float(epoch), accuracy, title=f"epoch {epoch}: {words.percent(accuracy)}")
        for epoch, accuracy in sorted((whole(one.get("epoch")), _epoch_accuracy(one)) for one in epochs)
        if accuracy >= 0
    ]
    if len(points) < 2:
        return None
    return charts.line_chart(
        points,
        title="Accuracy on images kept aside, by epoch",
        description="; ".join(point.title for point in points),
        x_label="epoch",
        y_label="accuracy",
    )


def _epoch_accuracy(one: Json) -> float:
    """On the images kept aside; -1 where it was not measured."""
    accuracy = number(first(one, "validation_accuracy", "accuracy"))
    return -1.0 if accuracy is None else accuracy


def _epoch_row(one: Json) -> tuple[str, str, str, str]:
    return (
        words.count(whole(one.get("epoch"))),
        words.small(number(one.get("loss"))),
        words.percent(number(first(one, "validation_accuracy", "accuracy"))),
        words.seconds(number(one.get("seconds"))),
    )


def _sentence(said: str) -> str:
    """With a capital and a full stop."""
    return said[:1].upper() + said[1:] + ("" if said.endswith((".", "!", "?")) or not said else ".")
