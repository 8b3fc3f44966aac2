"""A linear head fitted by its loss in few passes over rows on the disk.

The sums of products bound how the loss curves. In coordinates in which they are round, L-BFGS goes straight
to the bottom: from ridge some ten passes, where rows as they are take forty and more. To begin at the bottom
for a sample of the rows saves none.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize

from tlserve.training.arrays import Float32, Float64, Ints
from tlserve.training.engine import Fits
from tlserve.training.instant_kept import Kept
from tlserve.training.losses import Loss
from tlserve.training.method import Workplace
from tlserve.training.rows import RowSource, blocks

MOST_STEPS = 15
ENOUGH = 2e-4
"""A step that lowers the mean loss by less is the last one."""
CURVATURE = {"softmax": 0.03, "sigmoid": 0.03, "squared_hinge": 0.5}
"""About how much the loss curves along a score, the mean over rows: p (1 - p) where most are sure."""


class RowPasses:
    """The loss of the teaching rows: each evaluation reads all of them, a block at a time.

    The rows of images that validate have no weight in it.
    """

    def __init__(
        self,
        source: RowSource,
        targets: Ints,
        kept: Kept,
        names: tuple[str, ...],
        *,
        loss: Loss,
        place: Workplace,
        tell: Callable[[], None],
    ) -> None:
        """targets: (n_rows,) of the source, of which `kept` was built; its digests are places in it."""
        self.n_passes = 0
        self._source, self._targets, self._kept = source, targets, kept
        self._loss, self._place, self._tell, self._n_classes = loss, place, tell, len(names)
        by_class = np.array([kept.weight_of(name) for name in names], np.float32)
        self._weights = by_class[targets]
        self._weights[[int(one) for one in kept.validating.digests]] = 0
        self.total_weight = float(self._weights.sum(dtype=np.float64))

    def evaluate(self, parameters: Float64) -> tuple[float, Float64]:
        """The loss summed over all rows, and its gradient. Raises TrainingCancelled.

        parameters: (n_classes, n_features + 1), on standardised rows.
        """
        self.n_passes += 1
        loss, gradient = 0.0, np.zeros(parameters.shape)
        for at, rows in blocks(self._source, cancelled=self._place.cancelled):
            fits = self._fits(rows, at)
            part, slope = self._place.engine.data_loss(fits, parameters[None].astype(np.float32))
            loss += part
            gradient += slope[0]
            self._tell()
        return loss, gradient

    def rounding(self, penalty_c: float) -> Float64:
        """L, lower triangular: in coordinates of L' times the parameters the objective is about round."""
        gram = self._kept.taught.matrix * CURVATURE[self._loss]
        diagonal = np.arange(len(gram) - 1)
        gram[diagonal, diagonal] += 1 / penalty_c
        gram[-1, -1] = max(gram[-1, -1], 1e-6)
        return np.asarray(cholesky(gram, lower=True, overwrite_a=True, check_finite=False))

    def _fits(self, rows: Float32, at: slice) -> Fits:
        standardised = self._kept.scaling.apply(rows)
        return Fits(standardised, self._targets[at], self._weights[at][None], self._n_classes, self._loss)


def solve_in_passes(passes: RowPasses, penalty_c: float, start: Float64) -> Float64:
    """The parameters that minimise sum(weight * loss) + |W|^2 / (2 C), nearly.

    start: (n_classes, n_features + 1), from the teaching images alone. Raises TrainingCancelled.
    """
    shape, total, lower = start.shape, passes.total_weight, passes.rounding(penalty_c)

    def turned_back(flat: Float64) -> Float64:
        turned = flat.reshape(shape).T
        return np.ascontiguousarray(
            solve_triangular(lower, turned, lower=True, trans="T", check_finite=False).T
        )

    def objective(flat: Float64) -> tuple[float, Float64]:
        parameters = turned_back(flat)
        loss, gradient = passes.evaluate(parameters)
        shrunk = parameters.copy()
        shrunk[:, -1] = 0
        loss += float(np.vdot(shrunk, shrunk)) / (2 * penalty_c)
        slope = (gradient + shrunk / penalty_c).T
        turned = solve_triangular(lower, slope, lower=True, check_finite=False).T
        return loss / total, np.ascontiguousarray(turned).ravel() / total

    first = np.ascontiguousarray((lower.T @ start.T).T).ravel()
    options = {"maxiter": MOST_STEPS, "maxfun": 2 * MOST_STEPS, "ftol": ENOUGH, "gtol": 1e-9}
    found = minimize(objective, first, jac=True, method="L-BFGS-B", options=options)
    return turned_back(np.asarray(found.x, dtype=np.float64))
