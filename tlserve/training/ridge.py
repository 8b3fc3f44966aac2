"""Ridge heads in closed form: least squares on class indicators, on the rows or behind a random layer.

All folds share their work. With fewer columns than rows the weighted products of columns are summed once for
each fold, and a fit leaves its own fold's sum out; with fewer rows than columns the products of rows are
computed once, and a fit picks those it may see.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tlserve.core.head import Dense, Layer, Projection, projection_matrix
from tlserve.core.plan import HeadKind
from tlserve.training.arrays import Float32, Float64, Ints
from tlserve.training.engine import Engine
from tlserve.training.lesson import Exam, Lesson
from tlserve.training.method import LastFit, Older, Workplace, blas_threads
from tlserve.training.scaling import Scaling
from tlserve.training.search import Attempt, Trial, best_step, climb, geometric, loss_after, room_for_scores

GRID = geometric(0.01, 9)
"""The penalty over the total variance of the columns: the noise of a score over its variance."""
START = 4
USUAL_TEMPERATURE = 0.15
"""Scores lie between 0 and 1; so much of them makes odds."""
PROJECTION_SEED = 20_260_917
"""One for all models, so that a process keeps one matrix."""
PROJECTION_WIDTH = 4_096
ROWS_AT_ONCE = 32_768
_TINY = 1e-6
_USUAL_TRIALS = 4


@dataclass(frozen=True, eq=False)
class RidgeMethod:
    """Ridge on the rows (width 0), or on the ReLU of their random projection to `width` columns."""

    kind: HeadKind
    described: str
    width: int = 0
    fewest_images: int = 0
    is_quick_on_cpu: bool = True

    @property
    def most_trials(self) -> int:
        return len(GRID)

    def flops(self, exam: Exam, lesson: Lesson) -> float:
        n_seen, n_all, n_features = len(exam.lesson.rows), len(lesson.rows), lesson.rows.shape[1]
        n_columns = self.width or n_features
        layer = 2.0 * n_features * self.width * (n_seen + n_all)
        # A symmetric product takes half the work of one that is not.
        per_trial = exam.n_fits * min(n_columns, n_seen) ** 3 / 3
        once = n_seen * n_columns * min(n_columns, n_seen)
        last = n_all * n_columns * min(n_columns, n_all) + min(n_columns, n_all) ** 3 / 3
        # Products are float32, systems float64, at half the speed.
        return float(layer + once + last + 2 * _USUAL_TRIALS * per_trial)

    def examine(self, exam: Exam, place: Workplace) -> Attempt:
        with blas_threads(self.flops(exam, exam.lesson)):
            rows = self._columns(exam.lesson.rows, place)
            seen = replace(exam, lesson=replace(exam.lesson, rows=rows))
            variance = total_variance(rows)
            folds: _ByColumns | _ByRows
            folds = (_ByColumns if rows.shape[1] < len(rows) else _ByRows)(seen, place)

            def try_step(step: int) -> Trial:
                logits = folds.logits(penalty(GRID[step], variance))
                place.tell()
                return Trial.of(GRID[step], logits, exam.truth, link="softmax", usual=USUAL_TEMPERATURE)

            tried = climb(try_step, len(GRID), START, loss_after)
        chosen = tried[best_step(tried, loss_after)]
        return Attempt(
            self.kind, "softmax", "penalty", chosen, tuple(trial for _, trial in sorted(tried.items()))
        )

    def fit(
        self, lesson: Lesson, attempt: Attempt, scaling: Scaling, place: Workplace, older: Older | None
    ) -> LastFit:
        place.check()
        n_rows, n_columns = len(lesson.rows), self.width or lesson.rows.shape[1]
        with blas_threads(float(n_rows) * n_columns * min(n_rows, n_columns)):
            rows = self._columns(lesson.rows, place)
            alpha = penalty(attempt.chosen.setting, total_variance(rows))
            parameters = fit_ridge(replace(lesson, rows=rows), alpha, place.engine)
        place.check()
        return LastFit(self._layers(parameters, scaling))

    def _columns(self, rows: Float32, place: Workplace) -> Float32:
        place.check()
        if not self.width:
            return rows
        return place.engine.hidden(rows, projection_matrix(PROJECTION_SEED, rows.shape[1], self.width))

    def _layers(self, parameters: Float64, scaling: Scaling) -> tuple[Layer, ...]:
        if not self.width:
            return (scaling.fold_in(parameters),)
        weight = np.ascontiguousarray(parameters[:, :-1].T, dtype=np.float32)
        first = Projection(scaling.mean, scaling.scale, PROJECTION_SEED, self.width)
        return (first, Dense(weight, parameters[:, -1].astype(np.float32)))


RIDGE = RidgeMethod(HeadKind.RIDGE, "ridge on class indicators in closed form, penalty by cross-validation")
PROJECTION = RidgeMethod(
    HeadKind.PROJECTION,
    f"random layer of {PROJECTION_WIDTH:,} columns and ReLU, then ridge, penalty by cross-validation",
    PROJECTION_WIDTH,
)


def fit_ridge(lesson: Lesson, alpha: float, engine: Engine) -> Float64:
    """(n_classes, n_features + 1): what minimises sum(weight * (indicator - score)^2) + alpha |W|^2.

    The bias, in the last column, is free. alpha > 0, as scikit-learn's Ridge has it.
    """
    rows = lesson.rows
    if rows.shape[1] < len(rows):
        gram, cross = _products(lesson, np.arange(len(rows)), engine)
        return engine.solve(penalised(gram, alpha), cross).T
    kernel = engine.times(rows, np.ascontiguousarray(rows.T)).astype(np.float64)
    indicators = np.eye(lesson.n_classes)[lesson.targets]
    duals, bias = duals_of(kernel, indicators, lesson.weights, alpha, engine)
    weight = engine.times(np.ascontiguousarray(rows.T), duals.astype(np.float32)).astype(np.float64)
    return np.concatenate([weight, bias[None]]).T


def total_variance(rows: Float32) -> float:
    """Summed over columns."""
    return float(rows.var(axis=0, dtype=np.float64).sum())


def penalty(setting: float, variance: float) -> float:
    return setting * max(variance, _TINY)


class _ByColumns:
    """Folds of more rows than columns."""

    def __init__(self, exam: Exam, place: Workplace) -> None:
        self._exam, self._place = exam, place
        lesson = exam.lesson
        self._own: dict[int, tuple[Float32, Float64]] = {}
        width = lesson.rows.shape[1] + 1
        self._gram, self._cross = np.zeros((width, width)), np.zeros((width, lesson.n_classes))
        for fold in np.unique(exam.fold_of):
            place.check()
            at = np.flatnonzero(exam.fold_of == fold)
            gram, cross = _products(lesson, at, place.engine)
            self._gram += gram
            self._cross += cross
            if fold < exam.n_fits:
                self._own[int(fold)] = gram.astype(np.float32), cross

    def logits(self, alpha: float) -> Float32:
        exam = self._exam
        found = room_for_scores(len(exam.asked), exam.lesson.n_classes)
        for fold, (gram, cross) in self._own.items():
            self._place.check()
            parameters = self._place.engine.solve(penalised(self._gram - gram, alpha), self._cross - cross)
            at = exam.asked_in(fold)
            rows = exam.lesson.rows[exam.asked[at]]
            found[at] = rows @ parameters[:-1].astype(np.float32) + parameters[-1].astype(np.float32)
        return found


class _ByRows:
    """Folds of at least as many columns as rows."""

    def __init__(self, exam: Exam, place: Workplace) -> None:
        place.check()
        self._exam, self._place = exam, place
        rows = exam.lesson.rows
        self._kernel = place.engine.times(rows, rows.T)

    def logits(self, alpha: float) -> Float32:
        exam, lesson = self._exam, self._exam.lesson
        found = room_for_scores(len(exam.asked), lesson.n_classes)
        for fold in np.unique(exam.fold_of[exam.asked]):
            self._place.check()
            seen = np.flatnonzero(exam.fold_of != fold)
            kernel = self._kernel[np.ix_(seen, seen)].astype(np.float64)
            indicators = np.eye(lesson.n_classes)[lesson.targets[seen]]
            duals, bias = duals_of(kernel, indicators, lesson.weights[seen], alpha, self._place.engine)
            at = exam.asked_in(fold)
            nearness = self._kernel[np.ix_(exam.asked[at], seen)].astype(np.float64)
            found[at] = nearness @ duals + bias
        return found


def _products(lesson: Lesson, at: Ints, engine: Engine) -> tuple[Float64, Float64]:
    """Weighted products of the columns and a last one of ones, over some rows: with each other, and with the
    indicators of classes."""
    width = lesson.rows.shape[1] + 1
    gram, cross = np.zeros((width, width)), np.zeros((width, lesson.n_classes))
    for begin in range(0, len(at), ROWS_AT_ONCE):
        block = at[begin : begin + ROWS_AT_ONCE]
        bordered = np.concatenate([lesson.rows[block], np.ones((len(block), 1), np.float32)], axis=1)
        indicators = np.zeros((len(block), lesson.n_classes), np.float32)
        indicators[np.arange(len(block)), lesson.targets[block]] = lesson.weights[block]
        gram += engine.gram(bordered, lesson.weights[block])
        cross += bordered.T @ indicators
    return gram, cross


def penalised(gram: Float64, alpha: float) -> Float64:
    """A copy with the penalty on all columns but the last."""
    found = gram.copy()
    diagonal = np.arange(len(gram) - 1)
    found[diagonal, diagonal] += alpha
    # A fold may hold all rows there are; the bias then has nothing to go by.
    found[-1, -1] = max(found[-1, -1], _TINY)
    return found


def duals_of(
    kernel: Float64, indicators: Float64, weights: Float32, alpha: float, engine: Engine
) -> tuple[Float64, Float64]:
    """What each row adds to the scores, (n, n_classes), and the bias, (n_classes,). Overwrites `kernel`."""
    diagonal = np.arange(len(kernel))
    kernel[diagonal, diagonal] += alpha / weights
    ones = np.ones((len(kernel), 1))
    solved = engine.solve(kernel, np.concatenate([indicators, ones], axis=1))
    bias = solved[:, :-1].sum(axis=0) / solved[:, -1].sum()
    return solved[:, :-1] - solved[:, -1:] * bias, bias
