"""What every kind of head learns from, and which of it each fit of a cross-validation may see."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tlserve.training.arrays import Float32, Ints
from tlserve.training.examples import Examples
from tlserve.training.folds import FoldPlan


@dataclass(frozen=True, eq=False)
class Lesson:
    """rows: (n, n_features) float32, standardised. targets: (n,) in [0, n_classes). weights: (n,) float32.

    A row may stand here twice, with two targets and two weights: that is what a mixture is.
    """

    rows: Float32
    targets: Ints
    weights: Float32
    n_classes: int

    def with_more(self, rows: Float32, targets: Ints, weights: Float32) -> Lesson:
        return Lesson(
            rows=np.concatenate([self.rows, rows]),
            targets=np.concatenate([self.targets, targets]),
            weights=np.concatenate([self.weights, weights]).astype(np.float32),
            n_classes=self.n_classes,
        )


@dataclass(frozen=True, eq=False)
class Exam:
    """A lesson in folds: fit k sees all rows but those of fold k, and is asked about images of fold k.

    fold_of: (n,) fold of each row of the lesson, in [0, n_folds); views and near duplicates share the fold
    of their image. Folds from n_fits on are never left out. asked: (n_asked,) positions of the rows that
    are validated, images only, ascending. images: (n_asked,) the training image of each.
    """

    lesson: Lesson
    fold_of: Ints
    n_fits: int
    asked: Ints
    images: Ints

    @property
    def truth(self) -> Ints:
        """(n_asked,) classes of the images that are validated."""
        return np.asarray(self.lesson.targets[self.asked])

    def row_weights(self) -> Float32:
        """(n_fits, n) float32: the weight of each row in each fit."""
        seen = self.fold_of[None, :] != np.arange(self.n_fits)[:, None]
        return np.asarray(seen * self.lesson.weights, dtype=np.float32)

    def asked_in(self, fold: int) -> Ints:
        """Which of `asked` belong to a fold, as positions in it."""
        return np.asarray(np.flatnonzero(self.fold_of[self.asked] == fold))

    def with_more(self, rows: Float32, targets: Ints, weights: Float32, fold_of: Ints) -> Exam:
        """The same with further rows to learn from; nobody is asked about them."""
        lesson = self.lesson.with_more(rows, targets, weights)
        return replace(self, lesson=lesson, fold_of=np.concatenate([self.fold_of, fold_of]))


def lesson_of(examples: Examples, standardised: Float32, class_weights: Float32) -> Lesson:
    """All rows; an image and its views together weigh as much as one image of its class."""
    targets = examples.row_targets
    weights = examples.row_weights * class_weights[targets]
    return Lesson(standardised, targets, weights.astype(np.float32), len(class_weights))


def exam_of(examples: Examples, lesson: Lesson, plan: FoldPlan) -> Exam:
    """The images of the plan, with their views."""
    fold_of_image = np.full(examples.n_images, -1, dtype=np.intp)
    fold_of_image[plan.rows] = plan.fold_of
    fold_of = fold_of_image[examples.image_of]
    if (fold_of >= 0).all():
        part = lesson
    else:
        taken = np.flatnonzero(fold_of >= 0)
        part = Lesson(lesson.rows[taken], lesson.targets[taken], lesson.weights[taken], lesson.n_classes)
        fold_of = fold_of[taken]
    # Images come first, in order, in the examples and so in any part of them.
    asked = np.flatnonzero(fold_of[: len(plan.rows)] < plan.n_fits)
    return Exam(part, fold_of, plan.n_fits, asked, plan.rows[asked])
