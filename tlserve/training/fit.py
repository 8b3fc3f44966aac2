"""From rows and labels to a head in one call: standardise, compare kinds, choose, fit, calibrate."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tlserve.core.head import Head, logits
from tlserve.core.plan import HeadKind
from tlserve.core.types import Features
from tlserve.training.arrays import Float32, Ints
from tlserve.training.compare import Choice, answers, choose, differs, gains, run_entry, too_dear
from tlserve.training.engine import engine_for
from tlserve.training.examples import Examples, StreamedExamples
from tlserve.training.folds import FoldPlan, plan_folds
from tlserve.training.gram import class_weight
from tlserve.training.lesson import Exam, Lesson, exam_of, lesson_of
from tlserve.training.margins import OVR, SOFTMAX, SVM
from tlserve.training.method import Method, Older, Workplace
from tlserve.training.mixup import exam_with_mixtures, lesson_with_mixtures
from tlserve.training.mlp import MLP
from tlserve.training.novelty import fit_novelty
from tlserve.training.reporting import Steps, raised, report_of
from tlserve.training.ridge import PROJECTION, RIDGE
from tlserve.training.scaling import Scaling
from tlserve.training.streamed import train_streamed
from tlserve.training.trained import OutOfFold, TrainedHead

METHODS: tuple[Method, ...] = (SOFTMAX, OVR, SVM, RIDGE, PROJECTION, MLP)


def train(
    examples: Examples | StreamedExamples,
    taps: tuple[str, ...],
    *,
    kinds: Sequence[HeadKind] = (HeadKind.SOFTMAX,),
    seed: int = 0,
    mixup: bool = False,
    warm: Head | None = None,
    held_out_rows_for_novelty: Features | None = None,
    novelty_budget_kb: int = 256,
    device: str = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> TrainedHead:
    """Train a head on bottleneck rows.

    examples: rows in memory; or rows that are read when they are needed, which run through in a few passes
    where they are too many for memory (see `train_streamed`: no mixtures, and not every kind).
    taps: what the columns of the rows are. kinds: one is trained as it is; several are cross-validated on
    the same folds, and the best one is taken, or the simplest of those that do as well. mixup: whether
    mixtures of rows are tried as further rows; they are kept where cross-validation favours them.
    warm: the head before this one; where it is of the same form and reads the same columns, the last fit
    starts from it, if that is the better start. The folds never do: it may have seen what they validate on.
    held_out_rows_for_novelty: (any, n_features), used for the scale of novelty and for nothing else.
    device: where the heavy products run, if torch can use it. on_progress(done, total) counts fits.
    The same arguments on the same machine give the same head. Raises ValueError without kinds,
    TrainingCancelled.
    """
    if not kinds:
        raise ValueError("name at least one kind of head")
    if isinstance(examples, StreamedExamples):
        if not examples.fits_memory:
            return train_streamed(
                examples,
                taps,
                kinds=kinds,
                seed=seed,
                held_out_rows_for_novelty=held_out_rows_for_novelty,
                novelty_budget_kb=novelty_budget_kb,
                device=device,
                on_progress=on_progress,
                cancelled=cancelled,
            )
        examples = examples.read()
    began = time.perf_counter()
    methods = [method for method in METHODS if method.kind in kinds]
    steps = Steps(methods, mixup, on_progress or (lambda done, total: None))
    place = Workplace(engine_for(device), seed, steps.tell, cancelled)
    ready = _Prepared.of(examples, seed)
    entries = []
    for method in methods:
        entries.append(run_entry(method, ready.exam, ready.lesson, place, alone=len(methods) == 1))
        steps.end(method)
    choice, lesson, mixed = choose(entries, ready.exam.truth), ready.lesson, None
    if mixup:
        choice, lesson, mixed = _try_mixtures(choice, ready.exam, lesson, place)
    older = None if warm is None else Older(warm, examples.names, taps)
    last = choice.entry.method.fit(lesson, choice.attempt, ready.scaling, place, older)
    temperature = choice.attempt.chosen.calibration.temperature
    head = Head(examples.names, taps, last.layers, choice.attempt.link, temperature)
    unseen = held_out_rows_for_novelty
    novelty = fit_novelty(
        ready.scaling,
        ready.lesson.rows[: examples.n_images],
        examples.targets,
        examples.n_classes,
        unseen,
        held_out_scores=None if unseen is None else logits(head, unseen),
        budget_kb=novelty_budget_kb,
        seed=seed,
    )
    steps.finish()
    report = report_of(entries, choice, ready.plan) | {
        "mixup": mixed,
        "class_weights": raised(examples.names, ready.class_weights),
        "n_train": examples.n_images,
        "n_views": len(examples.rows) - examples.n_images,
        "n_features": examples.rows.shape[1],
        "seed": seed,
        "warm": last.warm,
        "device": place.engine.device,
        "seconds": round(time.perf_counter() - began, 4),
    }
    answered = OutOfFold(ready.exam.images, answers(choice.attempt), ready.exam.truth)
    return TrainedHead(replace(head, novelty=novelty), choice.attempt.kind, report, answered)


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
    """How much a row of each class counts: (n_classes,) float32, at least 1. See `class_weight`."""
    counts = np.bincount(targets, minlength=n_classes)
    largest = int(counts.max())
    return np.array([class_weight(int(count), largest) for count in counts], np.float32)


@dataclass(frozen=True, eq=False)
class _Prepared:
    """Examples as fits read them."""

    scaling: Scaling
    class_weights: Float32
    lesson: Lesson
    plan: FoldPlan
    exam: Exam

    @classmethod
    def of(cls, examples: Examples, seed: int) -> _Prepared:
        scaling = Scaling.of(examples.rows)
        class_weights = weigh_classes(examples.targets, examples.n_classes)
        lesson = lesson_of(examples, scaling.apply(examples.rows), class_weights)
        plan = plan_folds(
            examples.targets,
            examples.n_classes,
            examples.rows.shape[1],
            np.random.default_rng(seed),
            groups=examples.groups,
            rows_per_image=len(examples.rows) / examples.n_images,
        )
        return cls(scaling, class_weights, lesson, plan, exam_of(examples, lesson, plan))


def _try_mixtures(
    choice: Choice, exam: Exam, lesson: Lesson, place: Workplace
) -> tuple[Choice, Lesson, dict[str, Any]]:
    """The choice and the lesson with mixtures where they help, and what they gave, ready for JSON."""
    began = time.perf_counter()
    more, method = exam_with_mixtures(exam, place.seed), choice.entry.method
    if reason := too_dear(method, more, more.lesson, place):
        return choice, lesson, {"kept": False, "reason": f"mixtures of two images were not tried: {reason}"}
    mixed = method.examine(more, place)
    kept = gains(choice.attempt, mixed, exam.truth)
    before, after = choice.attempt.chosen, mixed.chosen
    facts = {
        "kept": kept,
        "reason": f"mixtures of two images gave {differs(after, before)}: "
        + ("kept" if kept else "not kept, for that is no gain beyond chance"),
        "accuracy_gain": after.accuracy - before.accuracy,
        "nll_gain": before.calibration.nll_after - after.calibration.nll_after,
        "seconds": round(time.perf_counter() - began, 4),
    }
    if not kept:
        return choice, lesson, facts
    return replace(choice, attempt=mixed), lesson_with_mixtures(lesson, place.seed), facts
