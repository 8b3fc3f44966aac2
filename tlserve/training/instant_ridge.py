"""Ridge of an instant fit: from sums of products, or from rows where these are fewer than their columns."""

from __future__ import annotations

import time
from typing import Protocol

import numpy as np

from tlserve.core.plan import HeadKind
from tlserve.training.arrays import Float32, Float64, Ints
from tlserve.training.compare import Entry
from tlserve.training.engine import scores
from tlserve.training.instant_kept import Kept
from tlserve.training.method import Workplace
from tlserve.training.ridge import GRID, RIDGE, START, USUAL_TEMPERATURE, duals_of, penalised, penalty
from tlserve.training.search import Attempt, Trial, best_step, climb, loss_after

CHANGED = 0.05
"""The penalty is chosen anew once this share of the images has changed."""


class Sums(Protocol):
    """The two systems of an instant fit."""

    def validating_scores(self, alpha: float) -> Float32:
        """(n_validating, n_classes): what a fit on the teaching images says of the others."""

    def parameters(self, alpha: float) -> Float64:
        """(n_classes, n_features + 1) of a fit on all images, on standardised rows."""


def sums_of(kept: Kept, names: tuple[str, ...], place: Workplace) -> Sums:
    return (ByRows if kept.is_by_rows else ByProducts)(kept, names, place)


def examine(kept: Kept, sums: Sums, truth: Ints, place: Workplace) -> Entry:
    """Ridge as the validating images judge it, with the penalty they like best.

    While little has changed since the penalty was chosen, it stays, and one solve is enough.
    """
    began = time.perf_counter()

    def try_step(step: int) -> Trial:
        found = sums.validating_scores(penalty(GRID[step], kept.variance))
        place.tell()
        return Trial.of(GRID[step], found, truth, link="softmax", usual=USUAL_TEMPERATURE)

    if kept.step is not None and kept.n_changed <= CHANGED * kept.n_images:
        tried = {kept.step: try_step(kept.step)}
    else:
        tried = climb(try_step, len(GRID), START if kept.step is None else kept.step, loss_after)
        kept.step, kept.n_changed = best_step(tried, loss_after), 0
    trials = tuple(trial for _, trial in sorted(tried.items()))
    attempt = Attempt(HeadKind.RIDGE, "softmax", "penalty", tried[kept.step], trials)
    return Entry(HeadKind.RIDGE, RIDGE, attempt, time.perf_counter() - began)


class ByProducts:
    """Whatever the number of images, a solve costs by the columns."""

    def __init__(self, kept: Kept, names: tuple[str, ...], place: Workplace) -> None:
        self._kept, self._names, self._place = kept, names, place

    def validating_scores(self, alpha: float) -> Float32:
        parameters = self.taught(alpha)[None].astype(np.float32)
        return np.asarray(scores(parameters, self._kept.validating.rows)[0].T)

    def taught(self, alpha: float) -> Float64:
        """(n_classes, n_features + 1) of a fit on the teaching images only."""
        return self._solved(self._kept.taught.matrix, self._kept.taught.cross(self._names), alpha)

    def parameters(self, alpha: float) -> Float64:
        kept = self._kept
        cross = kept.taught.cross(self._names) + kept.judging.cross(self._names)
        return self._solved(kept.taught.matrix + kept.judging.matrix, cross, alpha)

    def _solved(self, matrix: Float64, cross: Float64, alpha: float) -> Float64:
        self._place.check()
        return np.ascontiguousarray(self._place.engine.solve(penalised(matrix, alpha), cross).T)


class ByRows:
    """Fewer images than columns: what rows have to do with each other is computed once a fit."""

    def __init__(self, kept: Kept, names: tuple[str, ...], place: Workplace) -> None:
        place.check()
        self._place = place
        self._lesson = kept.lesson(names, everything=True)
        self._n_teaching = len(self._lesson.rows) - len(kept.validating)
        rows = self._lesson.rows
        self._kernel = place.engine.times(rows, rows.T)
        self._indicators = np.eye(len(names))[self._lesson.targets]

    def validating_scores(self, alpha: float) -> Float32:
        n = self._n_teaching
        duals, bias = self._duals(n, alpha)
        return np.asarray(self._kernel[n:, :n] @ duals + bias, dtype=np.float32)

    def parameters(self, alpha: float) -> Float64:
        duals, bias = self._duals(len(self._kernel), alpha)
        weight = (duals.T.astype(np.float32) @ self._lesson.rows).astype(np.float64)
        return np.concatenate([weight, bias[:, None]], axis=1)

    def _duals(self, n: int, alpha: float) -> tuple[Float64, Float64]:
        self._place.check()
        kernel = self._kernel[:n, :n].astype(np.float64)
        weights = self._lesson.weights[:n]
        return duals_of(kernel, self._indicators[:n], weights, alpha, self._place.engine)
