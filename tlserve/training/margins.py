"""Linear heads by their loss: softmax regression, one-vs-rest logistic regression, linear SVM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tlserve.core.head import Link
from tlserve.core.plan import HeadKind
from tlserve.training.arrays import Float64
from tlserve.training.engine import Fits, scores
from tlserve.training.lesson import Exam, Lesson
from tlserve.training.linear import loss_and_gradient, solve
from tlserve.training.losses import Loss
from tlserve.training.method import LastFit, Older, Workplace, blas_threads
from tlserve.training.scaling import Scaling
from tlserve.training.search import (
    Attempt,
    Trial,
    best_step,
    climb,
    geometric,
    loss_after,
    loss_before,
    room_for_scores,
)

_EVALUATIONS = 150
"""Of the loss, in an ordinary climb."""


@dataclass(frozen=True, eq=False)
class LinearMethod:
    """A linear head, its penalty chosen by cross-validation, warm from one trial to the next."""

    kind: HeadKind
    described: str
    loss: Loss
    link: Link
    usual: float
    """The temperature that its scores usually need."""
    judged_by: Callable[[Trial], float]
    grid: tuple[float, ...]
    """C times the number of features: the variance that the penalty expects of a score."""
    start: int
    """The step where the climb begins: one below the optimum of an ordinary set of photos."""
    fewest_images: int = 0
    is_quick_on_cpu: bool = True

    @property
    def most_trials(self) -> int:
        return len(self.grid)

    def flops(self, exam: Exam, lesson: Lesson) -> float:
        n_features, n_classes = exam.lesson.rows.shape[1], lesson.n_classes
        rows = _EVALUATIONS * len(exam.lesson.rows) * exam.n_fits + 30 * len(lesson.rows)
        return 4.0 * float(n_features * n_classes) * rows

    def examine(self, exam: Exam, place: Workplace) -> Attempt:
        lesson = exam.lesson
        fits = Fits(lesson.rows, lesson.targets, exam.row_weights(), lesson.n_classes, self.loss)
        last: Float64 | None = None

        def try_step(step: int) -> Trial:
            nonlocal last
            penalty_c = self.grid[step] / lesson.rows.shape[1]
            last = solve(fits, penalty_c, last, place.cancelled, place.engine)
            trial = self._trial(penalty_c, last, exam)
            place.tell()
            return trial

        with blas_threads(fits.flops):
            tried = climb(try_step, len(self.grid), self.start, self.judged_by)
        chosen = tried[best_step(tried, self.judged_by)]
        return Attempt(self.kind, self.link, "C", chosen, tuple(trial for _, trial in sorted(tried.items())))

    def fit(
        self, lesson: Lesson, attempt: Attempt, scaling: Scaling, place: Workplace, older: Older | None
    ) -> LastFit:
        fits = Fits(lesson.rows, lesson.targets, lesson.weights[None, :], lesson.n_classes, self.loss)
        penalty_c = attempt.chosen.setting
        start = attempt.chosen.parameters
        if start is None:
            start = np.zeros(fits.shape[1:])
        warm = None if older is None else older.parameters(self.link, scaling, start)
        is_warm = False
        with blas_threads(fits.flops):
            if warm is not None:
                ours, theirs = (
                    loss_and_gradient(fits, penalty_c, at.ravel(), place.engine)[0] for at in (start, warm)
                )
                is_warm = theirs < ours
            begin = warm if is_warm and warm is not None else start
            found = solve(fits, penalty_c, begin[None], place.cancelled, place.engine)
        return LastFit((scaling.fold_in(found[0]),), is_warm)

    def _trial(self, penalty_c: float, parameters: Float64, exam: Exam) -> Trial:
        rows, single = exam.lesson.rows, parameters.astype(np.float32)
        logits = room_for_scores(len(exam.asked), exam.lesson.n_classes)
        for fold in range(exam.n_fits):
            at = exam.asked_in(fold)
            logits[at] = scores(single[fold : fold + 1], rows[exam.asked[at]])[0].T
        return Trial.of(
            penalty_c,
            logits,
            exam.truth,
            link=self.link,
            usual=self.usual,
            parameters=parameters.mean(axis=0),
        )


SOFTMAX = LinearMethod(
    kind=HeadKind.SOFTMAX,
    described="softmax regression, L-BFGS, C by cross-validation",
    loss="softmax",
    link="softmax",
    usual=1.0,
    judged_by=loss_before,
    grid=geometric(0.1, 10),
    start=2,
)
OVR = LinearMethod(
    kind=HeadKind.OVR,
    described="one logistic regression for each class, L-BFGS, C by cross-validation",
    loss="sigmoid",
    # Softmax, not sigmoids made to sum to 1: with one temperature their log loss on digits is 0.120, not
    # 0.155, and their calibration error 0.010, not 0.026; the answers are the same.
    link="softmax",
    usual=1.4,
    judged_by=loss_after,
    grid=geometric(0.1, 10),
    start=2,
)
SVM = LinearMethod(
    kind=HeadKind.SVM,
    described="linear SVM with squared hinge, L-BFGS, C by cross-validation",
    loss="squared_hinge",
    link="softmax",
    usual=0.5,
    judged_by=loss_after,
    grid=geometric(0.03, 9),
    start=2,
)
