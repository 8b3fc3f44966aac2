"""A linear head fitted by its loss in few passes over rows on the disk.

The sums of products bound how the loss curves. In coordinates in which they are round, L-BFGS goes straight
to the bottom: some ten passes, where rows as they are take forty and more.
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
ENOUGH = 5e-5
"""A step that lowers the mean loss by less is the last one."""
CURVATURE = {"softmax": 0.03, "sigmoid": 0.03, "squared_hinge": 0.5}
"""About how much the loss curves along a score, the mean over rows: p (1 - p) where most are sure."""


class RowPasses:
    """The teaching rows, standardised, a block at a time; each evaluation of the loss is one pass."""

    def __init__(
        self,
        source: RowSource,
        kept: Kept,
        names: tuple[str, ...],
        *,
        loss: Loss,
        place: Workplace,
        tell: Callable[[], None],
    ) -> None:
        """The rows of images that validate are passed over; `kept` was built from the same source."""
        self.kept, self.names = kept, names
        self.n_passes = 0
        self._source, self._loss, self._place, self._tell = source, loss, place, tell
        self._weights = np.array([kept.weight_of(name) for name in names], np.float32)

    @property
    def total_weight(self) -> float:
        return float(sum(self.kept.taught.counts[name] * self.kept.weight_of(name) for name in self.names))

    def evaluate(self, parameters: Float64, targets: Ints, taught: Float32) -> tuple[float, Float64]:
        """The loss summed over all rows, and its gradient. targets: (n,); taught: (n,) 0 for those left out.

        parameters: (n_classes, n_features + 1). Raises TrainingCancelled.
        """
        self.n_passes += 1
        loss, gradient = 0.0, np.zeros(parameters.shape)
        single = parameters[None].astype(np.float32)
        for at, rows in blocks(self._source, cancelled=self._place.cancelled):
            fits = self._fits(rows, targets[at], taught[at])
            part, slope = self._place.engine.data_loss(fits, single)
            loss += part
            gradient += slope[0]
            self._tell()
        return loss, gradient

    def rounding(self, penalty_c: float) -> Float64:
        """L, lower triangular: in coordinates of L' times the parameters the objective is about round."""
        gram = self.kept.taught.matrix * CURVATURE[self._loss]
        diagonal = np.arange(len(gram) - 1)
        gram[diagonal, diagonal] += 1 / penalty_c
        gram[-1, -1] = max(gram[-1, -1], 1e-6)
        return np.asarray(cholesky(gram, lower=True, overwrite_a=True, check_finite=False))

    def _fits(self, rows: Float32, targets: Ints, taught: Float32) -> Fits:
        weights = (self._weights[targets] * taught)[None]
        return Fits(self.kept.scaling.apply(rows), targets, weights, len(self.names), self._loss)


def solve_in_passes(passes: RowPasses, penalty_c: float, start: Float64, all_targets: Ints) -> Float64:
    """The parameters that minimise sum(weight * loss) + |W|^2 / (2 C), nearly.

    start: (n_classes, n_features + 1), from the teaching images alone. all_targets: (n_rows,) of the source.
    Raises TrainingCancelled.
    """
    shape, total = start.shape, passes.total_weight
    lower = passes.rounding(penalty_c)
    taught = np.ones(len(all_targets), np.float32)
    taught[[int(one) for one in passes.kept.validating.digests]] = 0

    def parameters_at(flat: Float64) -> Float64:
        turned = solve_triangular(lower, flat.reshape(shape).T, lower=True, trans="T", check_finite=False)
        return np.ascontiguousarray(turned.T)

    def evaluate(flat: Float64) -> tuple[float, Float64]:
        parameters = parameters_at(flat)
        loss, gradient = passes.evaluate(parameters, all_targets, taught)
        shrunk = parameters.copy()
        shrunk[:, -1] = 0
        loss += float(np.vdot(shrunk, shrunk)) / (2 * penalty_c)
        slope = solve_triangular(lower, (gradient + shrunk / penalty_c).T, lower=True, check_finite=False)
        return loss / total, np.ascontiguousarray(slope.T).ravel() / total

    first = np.ascontiguousarray((lower.T @ start.T).T).ravel()
    options = {"maxiter": MOST_STEPS, "maxfun": 2 * MOST_STEPS, "ftol": ENOUGH, "gtol": 1e-9}
    found = minimize(evaluate, first, jac=True, method="L-BFGS-B", options=options)
    return parameters_at(np.asarray(found.x, dtype=np.float64))
