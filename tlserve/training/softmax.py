"""The optimisation itself: L2-regularised softmax regression, several fits on the same rows at once.

A fit sees its rows through a weight for each row, zero for those it must not see. So all folds of a
cross-validation share every pass over the rows, which are read from memory once instead of once a fold:
that, not arithmetic, is what such a fit spends its time on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]

SCORES_AT_ONCE = 8_000_000
"""Scores held in memory at a time (32 MB); rows beyond are worked off in blocks."""
_MAX_ITERATIONS = 300
_RELATIVE_TOLERANCE = 1e-7
_GRADIENT_TOLERANCE = 1e-4


class TrainingCancelled(Exception):
    """The caller's `cancelled` said so; nothing was made."""


@dataclass(frozen=True, eq=False)
class Fits:
    """Softmax regressions on shared rows.

    rows: (n, n_features) float32, standardised. targets: (n,) class of each row, in [0, n_classes).
    row_weights: (n_fits, n) float32: how much each row counts in each fit; 0 leaves it out.
    """

    rows: Float32
    targets: Ints
    row_weights: Float32
    n_classes: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the parameters: (n_fits, n_classes, n_features + 1); the last column is the bias."""
        return len(self.row_weights), self.n_classes, self.rows.shape[1] + 1

    @property
    def flops(self) -> float:
        """Of one evaluation of the loss and its gradient."""
        n_fits, n_classes, width = self.shape
        return 4.0 * len(self.rows) * n_fits * n_classes * width


def solve(
    fits: Fits, penalty_c: float, start: Float64 | None = None, cancelled: Callable[[], bool] | None = None
) -> Float64:
    """The parameters that minimise sum(row_weight * log loss) + |W|^2 / (2 C) in each fit.

    penalty_c: C as scikit-learn has it; a smaller one shrinks more. The bias is free. start: where to
    begin, in the shape that is returned: `fits.shape`, float64. Raises TrainingCancelled.
    The fits do not interact, so one L-BFGS over all of them finds the minimum of each.
    Source: Byrd, Lu, Nocedal and Zhu 1995.
    """

    def evaluate(flat: Float64) -> tuple[float, Float64]:
        if cancelled is not None and cancelled():
            raise TrainingCancelled
        return loss_and_gradient(fits, penalty_c, flat)

    first = np.zeros(fits.shape) if start is None else start
    options = {"maxiter": _MAX_ITERATIONS, "ftol": _RELATIVE_TOLERANCE, "gtol": _GRADIENT_TOLERANCE}
    found = minimize(evaluate, first.ravel(), jac=True, method="L-BFGS-B", options=options)
    return np.asarray(found.x, dtype=np.float64).reshape(fits.shape)


def loss_and_gradient(fits: Fits, penalty_c: float, flat: Float64) -> tuple[float, Float64]:
    """The objective of `solve`, summed over fits and divided by the number of rows, and its gradient."""
    n_rows = len(fits.rows)
    parameters = flat.reshape(fits.shape).astype(np.float32)
    loss, gradient = data_loss(fits, parameters)
    shrunk = flat.reshape(fits.shape).copy()
    shrunk[:, :, -1] = 0
    loss += float(np.vdot(shrunk, shrunk)) / (2 * penalty_c)
    gradient += shrunk / penalty_c
    return loss / n_rows, gradient.ravel() / n_rows


def data_loss(fits: Fits, parameters: Float32, scores_at_once: int = SCORES_AT_ONCE) -> tuple[float, Float64]:
    """Weighted log loss summed over rows and fits, without the penalty, and its gradient."""
    n_fits, n_classes, _ = fits.shape
    loss, gradient = 0.0, np.zeros(fits.shape)
    step = max(64, scores_at_once // (n_fits * n_classes))
    for begin in range(0, len(fits.rows), step):
        block = slice(begin, begin + step)
        rows, targets, weights = fits.rows[block], fits.targets[block], fits.row_weights[:, block]
        at = np.arange(len(rows))
        errors = scores(parameters, rows)
        errors -= errors.max(axis=1, keepdims=True)
        of_target = errors[:, targets, at]
        np.exp(errors, out=errors)
        total = errors.sum(axis=1)
        loss += float(((np.log(total) - of_target) * weights).sum(dtype=np.float64))
        errors *= (weights / total)[:, None, :]
        errors[:, targets, at] -= weights
        by_class = errors.reshape(n_fits * n_classes, len(rows)) @ rows
        gradient[:, :, :-1] += by_class.reshape(n_fits, n_classes, -1)
        gradient[:, :, -1] += errors.sum(axis=2)
    return loss, gradient


def scores(parameters: Float32, rows: Float32) -> Float32:
    """Class scores, (n_fits, n_classes, n) float32: rows run along the last axis."""
    n_fits, n_classes, width = parameters.shape
    weights = np.ascontiguousarray(parameters[:, :, :-1]).reshape(n_fits * n_classes, width - 1)
    found = (weights @ rows.T).reshape(n_fits, n_classes, len(rows))
    found += parameters[:, :, -1:]
    return np.asarray(found, dtype=np.float32)
