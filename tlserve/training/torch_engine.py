"""The heavy products in torch, for a GPU: rows travel there once and stay while they are in use."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import softplus

from tlserve.training.arrays import Float32, Float64
from tlserve.training.engine import Fits
from tlserve.training.losses import Loss

SCORES_AT_ONCE = 256_000_000
KEPT = 8
"""Arrays that stay on the device."""


class TorchEngine:
    """An `engine.Engine` on any device of torch's, the CPU included."""

    speed = 50.0

    def __init__(self, device: str) -> None:
        self.device = device
        self._device = torch.device(device)
        # The array is kept beside its copy: its id would be given to another one otherwise.
        self._placed: dict[int, tuple[npt.NDArray[np.generic], torch.Tensor]] = {}

    def data_loss(self, fits: Fits, parameters: Float32) -> tuple[float, Float64]:
        n_fits, n_classes, width = fits.shape
        rows, targets, weights = (self._place(one) for one in (fits.rows, fits.targets, fits.row_weights))
        at = torch.from_numpy(parameters).to(self._device)
        matrix, bias = at[:, :, :-1].reshape(n_fits * n_classes, width - 1), at[:, :, -1:]
        loss = torch.zeros((), dtype=torch.float64, device=self._device)
        gradient = torch.zeros(fits.shape, dtype=torch.float64, device=self._device)
        step = max(64, SCORES_AT_ONCE // (n_fits * n_classes))
        for begin in range(0, len(fits.rows), step):
            block = slice(begin, begin + step)
            scores = (matrix @ rows[block].T).reshape(n_fits, n_classes, -1) + bias
            part, slopes = _slopes(fits.loss, scores, targets[block], weights[:, block])
            loss += part
            by_class = slopes.reshape(n_fits * n_classes, -1) @ rows[block]
            gradient[:, :, :-1] += by_class.reshape(n_fits, n_classes, -1)
            gradient[:, :, -1] += slopes.sum(dim=2)
        return float(loss), np.asarray(gradient.cpu().numpy(), dtype=np.float64)

    def gram(self, rows: Float32, weights: Float32) -> Float64:
        placed = self._once(rows) * self._once(np.sqrt(weights))[:, None]
        return np.asarray((placed.T @ placed).cpu().numpy(), dtype=np.float64)

    def times(self, left: Float32, right: Float32) -> Float32:
        found = self._once(left) @ self._once(right)
        return np.asarray(found.cpu().numpy(), dtype=np.float32)

    def hidden(self, rows: Float32, matrix: Float32) -> Float32:
        found = (self._place(rows) @ self._place(matrix)).relu_()
        return np.asarray(found.cpu().numpy(), dtype=np.float32)

    def solve(self, positive: Float64, right: Float64) -> Float64:
        factor = torch.linalg.cholesky(self._once(positive))
        return np.asarray(torch.cholesky_solve(self._once(right), factor).cpu().numpy(), dtype=np.float64)

    def _once(self, array: npt.NDArray[np.generic]) -> torch.Tensor:
        known = self._placed.get(id(array))
        return known[1] if known is not None else torch.tensor(array, device=self._device)

    def _place(self, array: npt.NDArray[np.generic]) -> torch.Tensor:
        """A copy on the device that stays there."""
        if id(array) not in self._placed:
            while len(self._placed) >= KEPT:
                del self._placed[next(iter(self._placed))]
            self._placed[id(array)] = (array, torch.tensor(array, device=self._device))
        return self._placed[id(array)][1]


def _slopes(
    loss: Loss, scores: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `losses` has it, in torch: the loss as float64, and its slope by each score."""
    right = torch.zeros_like(scores)
    right.scatter_(1, targets.expand(len(scores), 1, -1), 1.0)
    if loss == "softmax":
        logs = scores.log_softmax(dim=1)
        each, slopes = -(logs * right).sum(dim=1), logs.exp() - right
    elif loss == "sigmoid":
        each, slopes = (softplus(scores) - scores * right).sum(dim=1), scores.sigmoid() - right
    else:
        sign = 2 * right - 1
        missing = (1 - sign * scores).clamp_(min=0)
        each, slopes = (missing * missing).sum(dim=1), -2 * sign * missing
    return (each * weights).sum(dtype=torch.float64), slopes * weights[:, None, :]
