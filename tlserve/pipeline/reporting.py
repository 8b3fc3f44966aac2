"""The report of a version: what is known when it is published, and the rest when nobody waits any more.

Learning curve, likely mislabelled images and thumbnails take a moment, so they come after the version is
live: `report_later` puts the work off, and the trainer does it when it has nothing more urgent to do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tlserve.core.errors import UnknownVersion
from tlserve.core.head import apply
from tlserve.core.health import Suspect, data_health
from tlserve.core.judge import Answers, Decision, columns_of
from tlserve.core.scores import hardest, score_columns
from tlserve.core.types import Features, LabelledImage, Snapshot, Split
from tlserve.core.wire import as_json
from tlserve.ingest import duplicates
from tlserve.pipeline.bench import Bench
from tlserve.pipeline.learning import Learned
from tlserve.pipeline.ordering import TuneResult
from tlserve.pipeline.sampling import spread
from tlserve.pipeline.workshop import Workshop
from tlserve.release import Draft, Manifest
from tlserve.report import render_report
from tlserve.training import Examples, learning_curve, likely_mislabelled

log = logging.getLogger("tlserve.pipeline")

PROBLEMS_TOLD = 200
HARDEST_TOLD = 24
SUSPECTS_TOLD = 100
CURVE_IMAGES = 100_000
"""The learning curve is drawn on so many at most."""


@dataclass(frozen=True, eq=False)
class Findings:
    """What a pass learnt, and from what."""

    folder: Path
    """Of the model's images."""
    bench: Bench
    snapshot: Snapshot
    learned: Learned
    groups: Callable[[], Sequence[int]]
    """Gives those of the training images, in order; near duplicates share a number."""


def first_report(
    model: str, draft: Draft, findings: Findings, decision: Decision, tuned: TuneResult | None
) -> dict[str, Any]:
    """What is known when a version is published."""
    snapshot, learned = findings.snapshot, findings.learned
    return {
        "model": model,
        "backbone": {
            "name": draft.backbone,
            "build": draft.build,
            "precision": findings.bench.spec.precision,
            "tuned_from": draft.tuned_from,
        },
        "images": {
            "counts": snapshot.counts,
            "train": len(snapshot.on(Split.TRAIN)),
            "held_out": len(snapshot.on(Split.HELD_OUT)),
        },
        "decision": asdict(decision),
        "plan": as_json(learned.plan),
        "training": learned.trained.report,
        **learned.notes,
        **({"tuning": tuned.report} if tuned is not None else {}),
        "problems": [asdict(problem) for problem in snapshot.problems[:PROBLEMS_TOLD]],
        "n_problems": len(snapshot.problems),
        "timeline": dict(draft.timeline),
    }


def report_later(shop: Workshop, manifest: Manifest, findings: Findings) -> None:
    """Have the report of a published version completed when there is time."""

    def complete(stop: Callable[[], bool]) -> None:
        try:
            report = shop.versions.report(manifest.model, manifest.version)
            # A study may have ended with the plan that is live: its comparison belongs to that version.
            parts = {"training": findings.learned.trained.report, **findings.learned.notes}
            write(shop, manifest, {**report, **parts, **full_report(shop, findings, stop)}, findings.folder)
        except UnknownVersion:
            log.info("model %r: version %d is gone, and its report", manifest.model, manifest.version)

    shop.reported.add((manifest.model, manifest.version))
    shop.later(complete)


def write_page(shop: Workshop, model: str, version: int, folder: Path) -> None:
    """The page of a version that has none, from its report as it is. Raises UnknownVersion, CorruptState."""
    shop.catch_up(everything=True)
    if shop.versions.page(model, version) is None:
        write(shop, shop.versions.manifest(model, version), shop.versions.report(model, version), folder)


def write(shop: Workshop, manifest: Manifest, report: Mapping[str, Any], folder: Path) -> None:
    facts = {"version": manifest.version, "created": manifest.created_iso}
    page = render_report({**report, **facts}, folder)
    shop.versions.complete_report(manifest.model, manifest.version, report, page)


def full_report(
    shop: Workshop, findings: Findings, stop: Callable[[], bool] = lambda: False
) -> dict[str, Any]:
    """The parts that take a moment. Raises TrainingCancelled when `stop` says so."""
    snapshot, trained = findings.snapshot, findings.learned.trained
    seen = _Seen(findings)
    health = data_health(snapshot, duplicates(shop.catalog, snapshot), seen.suspects(), seen.images)
    parts: dict[str, Any] = {
        "evaluation": {
            "out_of_fold": asdict(score_columns(trained.out_of_fold.targets, seen.out_of_fold)),
            "held_out": asdict(score_columns(seen.truth, seen.held_out)) if len(seen.truth) else None,
        },
        "health": asdict(health),
        "hardest": seen.hardest(),
        "mislabelled": [
            {
                "path": seen.images[one.position].path,
                "given": one.given,
                "suggested": one.suggested,
                "score": one.suggested_probability,
            }
            for one in seen.suspects()[:SUSPECTS_TOLD]
        ],
    }
    return parts | {"learning_curve": seen.learning_curve(stop)}


class _Seen:
    """What the head says of images that the fit behind the answer had not seen."""

    def __init__(self, findings: Findings) -> None:
        head, snapshot = findings.learned.trained.head, findings.snapshot
        self._findings = findings
        train, held_out = snapshot.on(Split.TRAIN), snapshot.on(Split.HELD_OUT)
        fold = findings.learned.trained.out_of_fold
        self.out_of_fold = Answers(head.labels, fold.probabilities)
        self.truth = columns_of([image.label for image in held_out], head.labels)
        self._held_out_rows = self._rows(held_out)
        self.held_out = Answers(head.labels, apply(head, self._held_out_rows))
        known = np.flatnonzero(self.truth >= 0)
        self.images: tuple[LabelledImage, ...] = (
            *(train[position] for position in fold.images),
            *(held_out[position] for position in known),
        )
        self._answers = Answers(
            head.labels, np.concatenate([fold.probabilities, self.held_out.probabilities[known]])
        )
        self._columns = np.concatenate([fold.targets, self.truth[known]])
        self._suspects: Sequence[Suspect] | None = None

    def suspects(self) -> Sequence[Suspect]:
        """Likely mislabelled; positions among `images`."""
        if self._suspects is None:
            answers = self._answers
            self._suspects = likely_mislabelled(answers.probabilities, self._columns, answers.labels)
        return self._suspects

    def hardest(self) -> list[dict[str, Any]]:
        return [
            {
                "path": self.images[one.position].path,
                "label": one.label,
                "predicted": one.answer,
                "probability": one.probability,
                "confidence": one.confidence,
                "side": self.images[one.position].split.value,
            }
            for one in hardest(self._columns, self._answers, HARDEST_TOLD)
        ]

    def learning_curve(self, stop: Callable[[], bool]) -> dict[str, Any]:
        train, groups = self._findings.snapshot.on(Split.TRAIN), self._findings.groups()
        # Of very many images a part says the same, and fits into memory.
        group_of = {image.digest: group for image, group in zip(train, groups, strict=True)}
        part = train if len(train) <= CURVE_IMAGES else spread(train, CURVE_IMAGES)
        examples = Examples.of(
            self._rows(part),
            [image.label for image in part],
            groups=[group_of[image.digest] for image in part],
        )
        return asdict(learning_curve(examples, self._held_out_rows, self.truth, cancelled=stop))

    def _rows(self, images: Sequence[LabelledImage]) -> Features:
        bench, head = self._findings.bench, self._findings.learned.trained.head
        return bench.store.read([image.digest for image in images], bench.spec.columns(head.taps))
