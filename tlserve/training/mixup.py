"""Mixtures of two images' rows as further rows to learn from.

A mixture a * x + (1 - a) * y is worth a row of x's class with weight a and one of y's with weight 1 - a: for
softmax and ridge that is exactly the loss of soft targets, and every kind of head can read it.
Source: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization".
"""

from __future__ import annotations

import numpy as np

from tlserve.training.arrays import Float32, Ints
from tlserve.training.lesson import Exam, Lesson

BETA = 0.3
"""Of the distribution of `a`: most mixtures lie near one of the two."""


def exam_with_mixtures(exam: Exam, seed: int) -> Exam:
    """One mixture for each row, of two rows of one fold: no fit sees a mixture of what it is asked about."""
    return exam.with_more(*_mixtures(exam.lesson, exam.fold_of, np.random.default_rng(seed)))


def lesson_with_mixtures(lesson: Lesson, seed: int) -> Lesson:
    """One mixture for each row."""
    one_fold = np.zeros(len(lesson.rows), dtype=np.intp)
    rows, targets, weights, _ = _mixtures(lesson, one_fold, np.random.default_rng(seed))
    return lesson.with_more(rows, targets, weights)


def _mixtures(
    lesson: Lesson, fold_of: Ints, random: np.random.Generator
) -> tuple[Float32, Ints, Float32, Ints]:
    """Rows, targets, weights and folds; each mixture stands twice, once for either class."""
    own = np.arange(len(lesson.rows))
    partner = own.copy()
    for fold in np.unique(fold_of):
        members = np.flatnonzero(fold_of == fold)
        partner[members] = random.permutation(members)
    shares = random.beta(BETA, BETA, len(own)).astype(np.float32)
    rows = lesson.rows * shares[:, None]
    rows += lesson.rows[partner] * (1 - shares)[:, None]
    weights = shares * lesson.weights, (1 - shares) * lesson.weights[partner]
    return (
        np.concatenate([rows, rows]),
        np.concatenate([lesson.targets, lesson.targets[partner]]),
        np.maximum(np.concatenate(weights), np.float32(1e-6)),
        np.concatenate([fold_of, fold_of]),
    )
