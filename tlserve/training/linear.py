"""The optimisation of linear heads: L2-regularised, several fits on the same rows at once.

A fit sees its rows through a weight for each row, zero for those it must not see. So all folds of a
cross-validation share every pass over the rows, which are read from memory once instead of once a fold:
that, not arithmetic, is what such a fit spends its time on.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize

from tlserve.training.arrays import Float64
from tlserve.training.engine import Engine, Fits, NumpyEngine

_MAX_ITERATIONS = 300
_RELATIVE_TOLERANCE = 1e-7
_GRADIENT_TOLERANCE = 1e-4


class TrainingCancelled(Exception):
    """The caller's `cancelled` said so; nothing was made."""


def solve(
    fits: Fits,
    penalty_c: float,
    start: Float64 | None = None,
    cancelled: Callable[[], bool] | None = None,
    engine: Engine | None = None,
    *,
    relative_tolerance: float = _RELATIVE_TOLERANCE,
) -> Float64:
    """The parameters that minimise sum(row_weight * loss) + |W|^2 / (2 C) in each fit.

    penalty_c: C as scikit-learn has it; a smaller one shrinks more. The bias is free. start: where to
    begin, in the shape that is returned: `fits.shape`, float64. relative_tolerance: it ends at a step that
    lowers the mean loss by less. Raises TrainingCancelled.
    The fits do not interact, so one L-BFGS over all of them finds the minimum of each.
    Source: Byrd, Lu, Nocedal and Zhu 1995.
    """
    by = engine or NumpyEngine()

    def evaluate(flat: Float64) -> tuple[float, Float64]:
        if cancelled is not None and cancelled():
            raise TrainingCancelled
        return loss_and_gradient(fits, penalty_c, flat, by)

    first = np.zeros(fits.shape) if start is None else start
    options = {"maxiter": _MAX_ITERATIONS, "ftol": relative_tolerance, "gtol": _GRADIENT_TOLERANCE}
    found = minimize(evaluate, first.ravel(), jac=True, method="L-BFGS-B", options=options)
    return np.asarray(found.x, dtype=np.float64).reshape(fits.shape)


def loss_and_gradient(
    fits: Fits, penalty_c: float, flat: Float64, engine: Engine | None = None
) -> tuple[float, Float64]:
    """The objective of `solve`, summed over fits and divided by the weight of all rows, and its gradient."""
    parameters = flat.reshape(fits.shape).astype(np.float32)
    loss, gradient = (engine or NumpyEngine()).data_loss(fits, parameters)
    shrunk = flat.reshape(fits.shape).copy()
    shrunk[:, :, -1] = 0
    loss += float(np.vdot(shrunk, shrunk)) / (2 * penalty_c)
    gradient += shrunk / penalty_c
    return loss / fits.total_weight, gradient.ravel() / fits.total_weight
