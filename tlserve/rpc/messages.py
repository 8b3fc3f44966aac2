"""Answers of the Backend as messages of tlserve.v1. The reverse is tlserve.client.answers."""

from __future__ import annotations

import dataclasses
import json

import numpy as np

from tlserve.core.backbones import BackboneDescription
from tlserve.core.precision import PrecisionTrial
from tlserve.rpc._gen import tlserve_v1_pb2 as v1
from tlserve.rpc.backend import (
    AddedImage,
    Answer,
    BackboneLine,
    Comparison,
    ModelEvent,
    ModelSummary,
    VersionLine,
)


def classifications(answer: Answer, top_k: int) -> list[v1.Classification]:
    """One per image: its best `top_k` labels, most likely first."""
    k = min(top_k, len(answer.labels))
    best = np.argsort(-answer.probabilities, axis=1, kind="stable")[:, :k]
    return [_classification(answer, row, best[row].tolist()) for row in range(len(best))]


def _classification(answer: Answer, row: int, best: list[int]) -> v1.Classification:
    top = [
        v1.LabelProbability(label=answer.labels[index], probability=float(answer.probabilities[row, index]))
        for index in best
    ]
    return v1.Classification(
        label=top[0].label,
        probability=top[0].probability,
        top=top,
        novelty=float(answer.novelty[row]),
        unknown=bool(answer.unknown[row]),
    )


def model_summary(line: ModelSummary) -> v1.ModelSummary:
    return v1.ModelSummary(
        model=line.model,
        phase=line.phase,
        ready=line.ready,
        live=line.live,
        previous=line.previous,
        promotion=line.promotion,
        images=line.images,
        counts=line.counts,
        accuracy=line.accuracy,
        accuracy_low=line.accuracy_low,
        accuracy_high=line.accuracy_high,
        backbone=line.backbone,
        message=line.message,
        problems=[
            v1.Problem(kind=kind, where=printable(where), reason=printable(reason))
            for kind, where, reason in line.problems
        ],
        n_problems=line.n_problems,
        done=line.done,
        total=line.total,
        per_second=line.per_second,
        seconds_left=line.seconds_left,
        wanted_backbone=printable(line.wanted_backbone),
    )


def version_line(line: VersionLine) -> v1.VersionLine:
    return v1.VersionLine(
        version=line.version,
        state=line.state,
        images=line.images,
        classes=line.classes,
        accuracy=line.accuracy,
        backbone=line.backbone,
        created=line.created,
        reason=line.reason,
        drop_to_live_seconds=line.drop_to_live_seconds,
        pinned=line.pinned,
        instant=line.instant,
        timeline=[v1.Step(name=name, seconds=seconds) for name, seconds in line.timeline.items()],
    )


def model_event(event: ModelEvent) -> v1.ModelEvent:
    return v1.ModelEvent(
        model=event.model,
        at=event.at,
        kind=event.kind,
        message=printable(event.message),
        phase=event.phase,
        version=event.version,
        done=event.done,
        total=event.total,
        per_second=event.per_second,
        seconds_left=event.seconds_left,
    )


def comparison(compared: Comparison) -> v1.CompareResponse:
    return v1.CompareResponse(json=json.dumps(compared.found), html=printable(compared.page))


def backbone_line(line: BackboneLine) -> v1.BackboneLine:
    return v1.BackboneLine(
        name=printable(line.name),
        plugin=printable(line.plugin),
        detail=printable(line.detail),
        error=None if line.error is None else printable(line.error),
        licence=None if line.licence is None else printable(line.licence),
        n_parameters=line.n_parameters,
        height=line.height,
        width=line.width,
        row_width=line.row_width,
        images_per_second=line.images_per_second,
        measured=line.measured,
    )


def backbone(found: BackboneDescription) -> v1.Backbone:
    info = found.info
    return v1.Backbone(
        name=found.name,
        plugin=printable(found.plugin),
        source=printable(found.source),
        licence=printable(info.licence),
        n_parameters=info.n_parameters,
        weights_origin=printable(info.weights_origin),
        weights_sha256=info.weights_sha256,
        build_version=printable(info.build_version),
        image=v1.ImageSpec(**dataclasses.asdict(info.image)),
        taps=[v1.Tap(name=printable(tap.name), width=tap.width) for tap in info.taps],
        trainable=found.trainable,
        build=found.build,
        build_folder=printable(found.build_folder),
        build_bytes=found.build_bytes,
        speeds=[v1.Speed(**dataclasses.asdict(speed)) for speed in found.speeds],
        declared_name=printable(info.name),
        precision=found.precision,
        trial=None if found.trial is None else precision_trial(found.trial),
    )


def precision_trial(trial: PrecisionTrial) -> v1.PrecisionTrial:
    told = dataclasses.asdict(trial)
    return v1.PrecisionTrial(**told | {name: printable(told[name]) for name in ("reason", "hardware")})


def added_image(image: AddedImage) -> v1.AddedImage:
    return v1.AddedImage(path=image.path, digest=image.digest, already_there=image.already_there)


def printable(text: str) -> str:
    """`text` without what UTF-8 cannot say: a file's name may hold any bytes, a message may not."""
    return text.encode("utf-8", "replace").decode("utf-8")
