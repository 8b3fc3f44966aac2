"""From rows and labels to a head in one call: standardise, compare kinds, choose, fit, calibrate."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from tlserve.core.head import Head, logits
from tlserve.core.plan import HeadKind
from tlserve.core.types import Features
from tlserve.training.arrays import Float32, Ints
from tlserve.training.compare import Choice, Entry, answers, choose, gains, run_entry, table
from tlserve.training.engine import Device, engine_for
from tlserve.training.examples import Examples
from tlserve.training.folds import FoldPlan, plan_folds
from tlserve.training.lesson import Exam, Lesson, exam_of, lesson_of
from tlserve.training.margins import OVR, SOFTMAX, SVM
from tlserve.training.method import Method, Older, Workplace
from tlserve.training.mixup import exam_with_mixtures, lesson_with_mixtures
from tlserve.training.mlp import MLP
from tlserve.training.novelty import fit_novelty
from tlserve.training.ridge import PROJECTION, RIDGE
from tlserve.training.scaling import Scaling
from tlserve.training.trained import OutOfFold, TrainedHead

METHODS: tuple[Method, ...] = (SOFTMAX, OVR, SVM, RIDGE, PROJECTION, MLP)
EVEN = 3.0
"""Classes up to this much smaller than the largest count as they are."""
HEAVIEST = 10.0


def train(
    examples: Examples,
    taps: tuple[str, ...],
    *,
    kinds: Sequence[HeadKind] = (HeadKind.SOFTMAX,),
    seed: int = 0,
    mixup: bool = False,
    warm: Head | None = None,
    held_out_rows_for_novelty: Features | None = None,
    novelty_budget_kb: int = 256,
    device: Device = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> TrainedHead:
    """Train a head on bottleneck rows.

    taps: what the columns of the rows are. kinds: one is trained as it is; several are cross-validated on
    the same folds, and the best one is taken, or the simplest of those that do as well. mixup: whether
    mixtures of rows are tried as further rows; they are kept where cross-validation favours them.
    warm: the head before this one; where it is of the same form and reads the same columns, the last fit
    starts from it, if that is the better start. The folds never do: it may have seen what they validate on.
    held_out_rows_for_novelty: (any, n_features), used for the scale of novelty and for nothing else.
    device: where the heavy products run. on_progress(done, total) counts fits.
    The same arguments on the same machine give the same head. Raises ValueError without kinds,
    TrainingCancelled.
    """
    if not kinds:
        raise ValueError("name at least one kind of head")
    started = time.perf_counter()
    methods = [method for method in METHODS if method.kind in kinds]
    steps = _Steps(methods, mixup, on_progress or (lambda done, total: None))
    scaling = Scaling.of(examples.rows)
    class_weights = weigh_classes(examples.targets, examples.n_classes)
    lesson = lesson_of(examples, scaling.apply(examples.rows), class_weights)
    plan = _plan(examples, seed)
    exam = exam_of(examples, lesson, plan)
    place = Workplace(engine_for(device), device, seed, steps.tell, cancelled)
    entries = []
    for method in methods:
        entries.append(run_entry(method, exam, lesson, place, alone=len(methods) == 1))
        steps.end(method)
    choice = choose(entries, exam.truth)
    choice, lesson, mixed = _try_mixtures(choice, exam, lesson, place) if mixup else (choice, lesson, None)
    attempt, trial = choice.attempt, choice.attempt.chosen
    older = None if warm is None else Older(warm, examples.names, taps)
    last = choice.entry.method.fit(lesson, attempt, scaling, place, older)
    originals = slice(None, examples.n_images)
    head = Head(
        labels=examples.names,
        taps=taps,
        layers=last.layers,
        link=attempt.link,
        temperature=trial.calibration.temperature,
    )
    unseen = held_out_rows_for_novelty
    novelty = fit_novelty(
        scaling,
        lesson.rows[originals],
        examples.targets,
        examples.n_classes,
        unseen,
        held_out_scores=None if unseen is None else logits(head, unseen),
        budget_kb=novelty_budget_kb,
        seed=seed,
    )
    head = replace(head, novelty=novelty)
    steps.finish()
    report = _report(entries, choice, plan)
    report |= {
        "mixup": mixed,
        "class_weights": _raised(examples.names, class_weights),
        "n_train": examples.n_images,
        "n_views": len(examples.rows) - examples.n_images,
        "n_features": examples.rows.shape[1],
        "seed": seed,
        "warm": last.warm,
        "device": device,
        "seconds": round(time.perf_counter() - started, 4),
    }
    return TrainedHead(head, attempt.kind, report, OutOfFold(exam.images, answers(attempt), exam.truth))


def train_softmax(
    rows: Features,
    labels: Sequence[str],
    taps: tuple[str, ...],
    *,
    seed: int = 0,
    warm: Head | None = None,
    held_out_rows_for_novelty: Features | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> TrainedHead:
    """Train a softmax head on rows of images: `train` at its plainest.

    rows: (n_images, n_features) float32, raw. labels: the class of each. Raises ValueError for fewer than
    two labels or shapes that do not match, NonFiniteRow, TrainingCancelled.
    """
    return train(
        Examples.of(rows, labels),
        taps,
        seed=seed,
        warm=warm,
        held_out_rows_for_novelty=held_out_rows_for_novelty,
        on_progress=on_progress,
        cancelled=cancelled,
    )


def weigh_classes(targets: Ints, n_classes: int) -> Float32:
    """How much a row of each class counts: (n_classes,) float32, at least 1.

    A class up to 3 times smaller than the largest counts as it is; a smaller one is raised to a third of
    the largest, at most tenfold. So there is no jump at the ratio of 3, and no single image rules.
    """
    counts = np.bincount(targets, minlength=n_classes)
    weights: Float32 = np.clip(counts.max() / np.maximum(counts, 1) / EVEN, 1, HEAVIEST).astype(np.float32)
    return weights


class _Steps:
    """Progress over all kinds: rising, to a total that is known from the start."""

    def __init__(self, methods: Sequence[Method], mixup: bool, tell: Callable[[int, int], None]) -> None:
        most_mixed = max(method.most_trials for method in methods) if mixup else 0
        self._total = sum(method.most_trials for method in methods) + most_mixed + 1
        self._done = self._before = 0
        self._tell = tell
        tell(0, self._total)

    def tell(self) -> None:
        self._done = min(self._done + 1, self._total - 1)
        self._tell(self._done, self._total)

    def end(self, method: Method) -> None:
        """A kind may end before it has made all its trials."""
        self._before += method.most_trials
        if self._done < self._before:
            self._done = self._before
            self._tell(self._done, self._total)

    def finish(self) -> None:
        self._tell(self._total, self._total)


def _plan(examples: Examples, seed: int) -> FoldPlan:
    return plan_folds(
        examples.targets,
        examples.n_classes,
        examples.rows.shape[1],
        np.random.default_rng(seed),
        groups=examples.groups,
        rows_per_image=len(examples.rows) / examples.n_images,
    )


def _try_mixtures(
    choice: Choice, exam: Exam, lesson: Lesson, place: Workplace
) -> tuple[Choice, Lesson, dict[str, Any]]:
    """The choice and the lesson with mixtures where they help, and what they gave, ready for JSON."""
    began = time.perf_counter()
    mixed = choice.entry.method.examine(exam_with_mixtures(exam, place.seed), place)
    kept = gains(choice.attempt, mixed, exam.truth)
    before, after = choice.attempt.chosen, mixed.chosen
    facts = {
        "kept": kept,
        "accuracy_gain": after.accuracy - before.accuracy,
        "nll_gain": before.calibration.nll_after - after.calibration.nll_after,
        "seconds": round(time.perf_counter() - began, 4),
    }
    if not kept:
        return choice, lesson, facts
    return replace(choice, attempt=mixed), lesson_with_mixtures(lesson, place.seed), facts


def _raised(names: tuple[str, ...], class_weights: Float32) -> dict[str, float]:
    pairs = zip(names, class_weights.tolist(), strict=True)
    return {name: weight for name, weight in pairs if weight != 1}


def _report(entries: Sequence[Entry], choice: Choice, plan: FoldPlan) -> dict[str, Any]:
    attempt, trial = choice.attempt, choice.attempt.chosen
    return {
        "kind": attempt.kind.value,
        "method": choice.entry.method.described,
        attempt.setting_name: trial.setting,
        "cv_accuracy": trial.accuracy,
        "temperature": trial.calibration.temperature,
        "choice": choice.sentence,
        "comparison": table(entries, choice),
        "out_of_fold": asdict(trial.calibration),
        "grid": attempt.grid,
        "folds": {"n_folds": plan.n_folds, "n_fits": plan.n_fits, "n_rows": len(plan.rows)},
    }
