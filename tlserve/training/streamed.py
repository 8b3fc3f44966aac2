"""Training from rows that do not fit into memory: the same call, a few passes over the rows on the disk.

The images that validate are in memory and teach no head but ridge, whose last solve takes all. One pass
gives the sums of products, from which ridge follows exactly. Kinds that are fitted by their loss begin at
ridge, and walk in coordinates in which those sums say the valley is round: some ten passes, not fifty.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tlserve.core.head import Dense, Head
from tlserve.core.plan import HeadKind
from tlserve.core.types import Features
from tlserve.training import instant_ridge
from tlserve.training.arrays import Float64
from tlserve.training.compare import Choice, Entry, answers, attempt_of, choose, run_entry
from tlserve.training.engine import engine_for, scores
from tlserve.training.examples import Examples, StreamedExamples
from tlserve.training.folds import FoldPlan, grouped_folds, plan_size, stratified_sample
from tlserve.training.instant_build import built
from tlserve.training.instant_kept import Kept
from tlserve.training.instant_novelty import novelty_of
from tlserve.training.instant_warm import WARM
from tlserve.training.lesson import exam_of, lesson_of
from tlserve.training.margins import LinearMethod
from tlserve.training.method import Workplace
from tlserve.training.passes import RowPasses, solve_in_passes
from tlserve.training.reporting import raised, report_of
from tlserve.training.ridge import penalty
from tlserve.training.rows import rows_at_once
from tlserve.training.search import Attempt, Trial
from tlserve.training.trained import OutOfFold, TrainedHead

MOST_VALIDATING = 20_000


def train_streamed(
    examples: StreamedExamples,
    taps: tuple[str, ...],
    *,
    kinds: Sequence[HeadKind],
    seed: int = 0,
    held_out_rows_for_novelty: Features | None = None,
    novelty_budget_kb: int = 256,
    device: str = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> TrainedHead:
    """`train`, from rows on the disk. Kinds that need all rows in memory give way; to ridge, if all do.

    No fit begins at the live head: it has seen the images that validate. Those, at most 20,000, teach ridge
    in its last solve and other kinds not at all. Raises TrainingCancelled, NonFiniteRow.
    """
    began = time.perf_counter()
    steps = _Steps(examples, kinds, on_progress)
    place = Workplace(engine_for(device), seed, cancelled=cancelled)
    labels = examples.labels
    kept = built(
        examples.source,
        [str(at) for at in range(len(labels))],
        labels,
        [str(group) for group in examples.groups],
        taps=taps,
        kept_bytes=0,
        most_validating=MOST_VALIDATING,
        seed=seed,
        on_block=steps.tell,
        cancelled=cancelled,
    )
    steps.passed()
    job = _Job(examples, kept, place, steps)
    layer, choice, report = job.run(kinds)
    steps.finish()
    temperature = choice.attempt.chosen.calibration.temperature
    head = Head(examples.names, taps, (layer,), choice.attempt.link, temperature)
    head = replace(head, novelty=novelty_of(kept, head, None, held_out_rows_for_novelty, novelty_budget_kb))
    places = np.array([int(one) for one in kept.validating.digests], dtype=np.intp)
    order = np.argsort(places)
    answered = OutOfFold(places[order], answers(choice.attempt)[order], job.truth[order])
    report |= {
        "n_train": len(labels),
        "n_features": examples.source.n_features,
        "seed": seed,
        "device": place.engine.device,
        "seconds": round(time.perf_counter() - began, 4),
    }
    return TrainedHead(head, choice.attempt.kind, report, answered)


class _Job:
    """The kinds that can be had from rows on the disk, and the best of them."""

    def __init__(self, examples: StreamedExamples, kept: Kept, place: Workplace, steps: _Steps) -> None:
        self._examples, self._kept, self._place, self._steps = examples, kept, place, steps
        self.truth = kept.validating.targets(examples.names)
        self._n_passes = 1

    def run(self, kinds: Sequence[HeadKind]) -> tuple[Dense, Choice, dict[str, Any]]:
        """The layer on raw rows, and how it came about."""
        kept, names = self._kept, self._examples.names
        sums = instant_ridge.ByProducts(kept, names, self._place)
        ridge = instant_ridge.examine(kept, sums, self.truth, self._place)
        trial = attempt_of(ridge).chosen
        alpha = penalty(trial.setting, kept.variance)
        start = sums.taught(alpha) / trial.calibration.temperature
        entries = [self._entry(kind, start, alone=len(kinds) == 1) for kind in WARM if kind in kinds]
        if HeadKind.RIDGE in kinds or not any(entry.attempt for entry in entries):
            entries.append(ridge)
        choice = choose(entries, self.truth)
        parameters = choice.attempt.chosen.parameters
        if parameters is None:
            parameters = sums.parameters(alpha)
        return kept.scaling.fold_in(parameters), choice, self._report(entries, choice, kinds)

    def _report(self, entries: list[Entry], choice: Choice, kinds: Sequence[HeadKind]) -> dict[str, Any]:
        n, names = len(self.truth), self._examples.names
        others = [kind.value for kind in kinds if kind not in {entry.kind for entry in entries}]
        weights = np.array([self._kept.weight_of(name) for name in names], np.float32)
        plan = FoldPlan(np.arange(n), np.zeros(n, dtype=np.intp), 1, 1)
        return report_of(entries, choice, plan) | {
            "streamed": True,
            "n_passes": self._n_passes,
            "n_validating": n,
            "left_out": dict.fromkeys(others, "it needs all rows in memory, and they are too many"),
            "mixup": None,
            "n_views": 0,
            "warm": False,
            "class_weights": raised(names, weights),
        }

    def _entry(self, kind: HeadKind, start: Float64, *, alone: bool) -> Entry:
        """A kind fitted by its loss, on the teaching images, as the validating ones judge it."""
        began, method, kept, names = time.perf_counter(), WARM[kind], self._kept, self._examples.names
        if kind is not HeadKind.SOFTMAX and not alone:
            return Entry(kind, method, None, left_out="left out: it is worth no passes over so many rows")
        penalty_c = self._penalty(method)
        passes = RowPasses(
            self._examples.source,
            self._examples.targets,
            kept,
            names,
            loss=method.loss,
            place=self._place,
            tell=self._steps.tell,
        )
        found = solve_in_passes(passes, penalty_c, start)
        self._n_passes += passes.n_passes
        logits = scores(found[None].astype(np.float32), kept.validating.rows)[0].T
        trial = Trial.of(
            penalty_c, logits, self.truth, link=method.link, usual=method.usual, parameters=found
        )
        attempt = Attempt(kind, method.link, "C", trial, (trial,))
        return Entry(kind, method, attempt, time.perf_counter() - began)

    def _penalty(self, method: LinearMethod) -> float:
        """C by cross-validation on a sample: what the penalty expects of scores hangs little on how many
        images there are."""
        examples, random = self._examples, np.random.default_rng(self._place.seed)
        n_images, width = len(examples.targets), examples.source.n_features
        size, n_folds, n_fits = plan_size(n_images, len(examples.names), width)
        chosen = np.arange(n_images)
        if size < n_images:
            chosen = stratified_sample(examples.targets, size, random)
        targets, groups = examples.targets[chosen], examples.groups[chosen]
        part = Examples(
            self._kept.scaling.apply(examples.source.read(chosen)),
            np.arange(len(chosen)),
            targets,
            examples.names,
            groups,
        )
        weights = np.array([self._kept.weight_of(name) for name in examples.names], np.float32)
        lesson = lesson_of(part, part.rows, weights)
        plan = FoldPlan(
            np.arange(len(chosen)), grouped_folds(targets, groups, n_folds, random), n_folds, n_fits
        )
        entry = run_entry(method, exam_of(part, lesson, plan), lesson, self._place, alone=True)
        return attempt_of(entry).chosen.setting


class _Steps:
    """Progress in blocks of rows, over as many passes as are usual."""

    USUAL_PASSES = 10

    def __init__(
        self,
        examples: StreamedExamples,
        kinds: Sequence[HeadKind],
        tell: Callable[[int, int], None] | None,
    ) -> None:
        per_pass = -(-len(examples.source) // rows_at_once(examples.source.n_features))
        n_walks = sum(kind in WARM for kind in kinds[:1]) or int(HeadKind.SOFTMAX in kinds)
        self._per_pass, self._total = per_pass, per_pass * (1 + n_walks * self.USUAL_PASSES) + 1
        self._done = 0
        self._tell = tell or (lambda done, total: None)
        self._tell(0, self._total)

    def tell(self) -> None:
        self._done = min(self._done + 1, self._total - 1)
        self._tell(self._done, self._total)

    def passed(self) -> None:
        self._done = min(max(self._done, self._per_pass), self._total - 1)

    def finish(self) -> None:
        self._tell(self._total, self._total)
