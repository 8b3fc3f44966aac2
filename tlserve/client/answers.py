"""Messages of tlserve.v1 as plain dataclasses: what the client's callers see."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tlserve.rpc._gen import tlserve_v1_pb2 as v1
from tlserve.rpc.backend import AddedImage, Comparison, ModelEvent, ModelSummary, VersionLine


@dataclass(frozen=True, slots=True)
class Classification:
    """What one version says of one image."""

    model: str
    version: int
    label: str
    probability: float
    top: tuple[tuple[str, float], ...]
    """(label, probability), most likely first."""
    novelty: float
    """In [0, 1]: 0.95 is farther from what was learned than 95 % of the model's own images."""
    unknown: bool
    """Novelty above the model's threshold: likely none of its classes."""
    error: str | None = None
    """Only in a stream: why this image got no answer; then the label is empty and the version 0."""


def read_classifications(answer: v1.ClassifyResponse) -> list[Classification]:
    return [
        Classification(
            model=answer.model,
            version=answer.version,
            label=result.label,
            probability=result.probability,
            top=tuple((line.label, line.probability) for line in result.top),
            novelty=result.novelty,
            unknown=result.unknown,
        )
        for result in answer.results
    ]


def read_stream_answer(answer: v1.ClassifyResponse) -> Classification:
    """The answer to a request with one image, or its error."""
    if answer.error:
        return Classification(answer.model, 0, "", 0.0, (), 0.0, False, answer.error)
    return read_classifications(answer)[0]


def read_model(line: v1.ModelSummary) -> ModelSummary:
    return ModelSummary(
        model=line.model,
        phase=line.phase,
        ready=line.ready,
        live=optional(line, "live"),
        previous=optional(line, "previous"),
        promotion=line.promotion,
        images=line.images,
        counts=dict(line.counts),
        accuracy=optional(line, "accuracy"),
        accuracy_low=optional(line, "accuracy_low"),
        accuracy_high=optional(line, "accuracy_high"),
        backbone=line.backbone,
        message=line.message,
        problems=tuple((p.kind, p.where, p.reason) for p in line.problems),
        n_problems=line.n_problems,
        done=line.done,
        total=line.total,
        per_second=optional(line, "per_second"),
        seconds_left=optional(line, "seconds_left"),
        wanted_backbone=line.wanted_backbone,
    )


def read_version(line: v1.VersionLine) -> VersionLine:
    return VersionLine(
        version=line.version,
        state=line.state,
        images=line.images,
        classes=tuple(line.classes),
        accuracy=optional(line, "accuracy"),
        backbone=line.backbone,
        created=line.created,
        reason=line.reason,
        drop_to_live_seconds=optional(line, "drop_to_live_seconds"),
        pinned=line.pinned,
        instant=line.instant,
        timeline={step.name: step.seconds for step in line.timeline},
    )


def read_event(event: v1.ModelEvent) -> ModelEvent:
    return ModelEvent(
        model=event.model,
        at=event.at,
        kind=event.kind,
        message=event.message,
        phase=event.phase,
        version=optional(event, "version"),
        done=event.done,
        total=event.total,
        per_second=optional(event, "per_second"),
        seconds_left=optional(event, "seconds_left"),
    )


def read_comparison(answer: v1.CompareResponse) -> Comparison:
    return Comparison(json.loads(answer.json), answer.html)


def read_added(image: v1.AddedImage) -> AddedImage:
    return AddedImage(image.path, image.digest, image.already_there)


def optional(message: Any, field: str) -> Any:
    return getattr(message, field) if message.HasField(field) else None
