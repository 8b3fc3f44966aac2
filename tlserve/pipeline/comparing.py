"""One model's images through several backbones: what each would reach, and what it would cost here."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from tlserve.core.backbones import BACKBONE_ALONE, FROM_FILES, Speed
from tlserve.core.errors import TlserveError
from tlserve.core.head import apply
from tlserve.core.judge import columns_of, wilson_interval
from tlserve.core.lifecycle import Phase
from tlserve.core.messages import CompareJob
from tlserve.core.plan import HeadKind
from tlserve.core.types import LabelledImage, Snapshot, Split
from tlserve.ingest import ScanRules, group_numbers, reconcile
from tlserve.pipeline.bench import Bench
from tlserve.pipeline.filling import Filler
from tlserve.pipeline.precision import BaseBuild
from tlserve.pipeline.telling import Emit, Teller
from tlserve.pipeline.workshop import Workshop
from tlserve.pipeline.worth import check_trainable
from tlserve.plugin_api import LAST_TAP
from tlserve.runtime import GRAPH_FILE, measured_here, read_speeds
from tlserve.training import Examples, TrainedHead, train

QUICK_HEADS = (HeadKind.SOFTMAX, HeadKind.RIDGE)
"""What is compared where the settings leave the head open: enough to tell backbones apart."""


def compare(job: CompareJob, shop: Workshop, emit: Emit, cancelled: Callable[[], bool]) -> dict[str, Any]:
    """The comparison, ready for JSON; a backbone that fails is a row that says why.

    Each backbone keeps its rows in the cache: comparing again, or taking one, passes no image twice.
    Raises TooFewClasses, MassDisappearance, StoreUnavailable; Cancelled, ReconcileCancelled and
    TrainingCancelled when something more urgent came.
    """
    return _Comparison(job, shop, Teller(job.job_id, job.model, emit, cancelled)).run()


class _Comparison:
    def __init__(self, job: CompareJob, shop: Workshop, teller: Teller) -> None:
        self._job, self._shop, self._teller = job, shop, teller
        self._filler = Filler(Path(job.folder), job.recipe.max_pixels, teller)

    def run(self) -> dict[str, Any]:
        job = self._job
        self._teller.enter(Phase.SCANNING)
        rules = ScanRules(follow_symlinks=job.recipe.follow_symlinks, max_pixels=job.recipe.max_pixels)
        snapshot = reconcile(
            self._shop.catalog,
            job.model,
            Path(job.folder),
            rules,
            memory=self._shop.memory(job.model, Path(job.folder)),
            on_progress=self._teller.tell,
            cancelled=self._teller.cancelled,
        )
        check_trainable(snapshot)
        rows = [self._row(backbone, snapshot) for backbone in job.backbones]
        self._teller.enter(None)
        return {
            "model": job.model,
            "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "n_images": len(snapshot.images),
            "n_classes": len(snapshot.counts),
            "device": self._shop.device.describe(),
            "rows": rows,
        }

    def _row(self, backbone: str, snapshot: Snapshot) -> dict[str, Any]:
        self._teller.enter(Phase.EXTRACTING, f"comparing backbones: {backbone}")
        try:
            bench = self._bench(backbone, snapshot)
            n_missing = len(bench.store.missing([image.digest for image in snapshot.images]))
            began = time.perf_counter()
            bad = self._filler.images(bench, snapshot.images)
            passed_per_second = n_missing / (time.perf_counter() - began)
            images = [image for image in snapshot.images if image.digest not in bad]
            self._teller.enter(Phase.TRAINING, f"comparing backbones: {backbone}")
            began = time.perf_counter()
            trained = self._trained(bench, [image for image in images if image.split is Split.TRAIN])
            seconds = time.perf_counter() - began
        except TlserveError as exc:
            return {"backbone": backbone, "error": str(exc)}
        speeds = measured_here(read_speeds(bench.folder))
        alone = _speed(speeds, BACKBONE_ALONE, batch_size=1)
        if alone is None:
            alone = _speed(self._shop.measure(bench.folder), BACKBONE_ALONE, batch_size=1)
        from_files = _speed(speeds, FROM_FILES)
        per_second = from_files.images_per_second if from_files else passed_per_second or None
        return {
            "backbone": backbone,
            "error": None,
            "live": backbone == self._job.recipe.backbone,
            "precision": bench.spec.precision,
            "licence": bench.spec.licence,
            "n_parameters": bench.spec.n_parameters,
            "row_width": bench.spec.row_width,
            "head": trained.kind.value,
            **_accuracy(bench, trained, [image for image in images if image.split is Split.HELD_OUT]),
            "extract_seconds": len(images) / per_second if per_second else None,
            "images_per_second": per_second,
            "train_seconds": round(seconds, 3),
            "predict_ms": 1000 / alone.images_per_second if alone else None,
            "graph_mb": (bench.folder / GRAPH_FILE).stat().st_size / 1e6,
        }

    def _bench(self, backbone: str, snapshot: Snapshot) -> Bench:
        """At the precision that a model on this backbone would be learnt at: `auto` decides now."""
        recipe = replace(self._job.recipe, backbone=backbone)
        base = BaseBuild(self._shop, self._job.model, recipe, self._filler, self._teller)
        return self._shop.bench(base.ready(snapshot).name)

    def _trained(self, bench: Bench, images: Sequence[LabelledImage]) -> TrainedHead:
        wish = self._job.recipe.wish
        rows = bench.store.read([image.digest for image in images], bench.spec.columns((LAST_TAP,)))
        groups = group_numbers(self._shop.catalog, self._job.model, images)
        return train(
            Examples.of(rows, [image.label for image in images], groups=groups),
            (LAST_TAP,),
            kinds=QUICK_HEADS if wish.head == "auto" else (wish.head,),
            seed=self._job.recipe.seed,
            on_progress=self._teller.tell,
            cancelled=self._teller.cancelled,
        )


def _accuracy(bench: Bench, trained: TrainedHead, held_out: Sequence[LabelledImage]) -> dict[str, Any]:
    """On all images, each answered by a fit that had not seen it: the held-out ones alone may be few."""
    head, fold = trained.head, trained.out_of_fold
    right = fold.probabilities.argmax(axis=1) == fold.targets
    truth = columns_of([image.label for image in held_out], head.labels)
    if (truth >= 0).any():
        rows = bench.store.read([image.digest for image in held_out], bench.spec.columns(head.taps))
        answers = apply(head, rows).argmax(axis=1)
        right = np.concatenate([right, answers[truth >= 0] == truth[truth >= 0]])
    low, high = wilson_interval(int(right.sum()), len(right))
    return {
        "accuracy": float(right.mean()),
        "accuracy_low": low,
        "accuracy_high": high,
        "n_judged": len(right),
    }


def _speed(speeds: Sequence[Speed], of: str, batch_size: int | None = None) -> Speed | None:
    for speed in speeds:
        if speed.of == of and batch_size in (None, speed.batch_size):
            return speed
    return None
