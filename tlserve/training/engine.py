"""Where the heavy products of a fit are computed: here by numpy, in `torch_engine` by torch.

A fit hands over whole arrays and gets small ones back, so it need not know which one does the work.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from tlserve.training.arrays import Float32, Float64, Ints
from tlserve.training.losses import SLOPES, Loss

SCORES_AT_ONCE = 8_000_000
"""Scores held in memory at a time (32 MB); rows beyond are worked off in blocks."""


@dataclass(frozen=True, eq=False)
class Fits:
    """Linear heads that are fitted on shared rows.

    rows: (n, n_features) float32, standardised. targets: (n,) class of each row, in [0, n_classes).
    row_weights: (n_fits, n) float32: how much each row counts in each fit; 0 leaves it out.
    """

    rows: Float32
    targets: Ints
    row_weights: Float32
    n_classes: int
    loss: Loss = "softmax"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the parameters: (n_fits, n_classes, n_features + 1); the last column is the bias."""
        return len(self.row_weights), self.n_classes, self.rows.shape[1] + 1

    @cached_property
    def total_weight(self) -> float:
        """Of the rows in a fit that sees them all: what the objective is divided by."""
        return float(self.row_weights.max(axis=0).sum(dtype=np.float64))

    @property
    def flops(self) -> float:
        """Of one evaluation of the loss and its gradient."""
        n_fits, n_classes, width = self.shape
        return 4.0 * len(self.rows) * n_fits * n_classes * width


class Engine(Protocol):
    """The products that cost time. Arrays in and out are numpy's."""

    device: str
    """As torch names it."""
    speed: float
    """How much more arithmetic than one core of a CPU is worth waiting for."""

    def data_loss(self, fits: Fits, parameters: Float32) -> tuple[float, Float64]:
        """Weighted loss summed over rows and fits, without the penalty, and its gradient."""

    def gram(self, rows: Float32, weights: Float32) -> Float64:
        """(n, m) rows and (n,) weights to the weighted products of columns, (m, m)."""

    def times(self, left: Float32, right: Float32) -> Float32:
        """(n, k) times (k, m)."""

    def hidden(self, rows: Float32, matrix: Float32) -> Float32:
        """ReLU of rows times matrix."""

    def solve(self, positive: Float64, right: Float64) -> Float64:
        """The solution of positive @ x = right, for a symmetric positive definite matrix."""


class NumpyEngine:
    """On the CPU, with the BLAS that numpy brings."""

    device = "cpu"
    speed = 1.0

    def __init__(self, scores_at_once: int = SCORES_AT_ONCE) -> None:
        self._scores_at_once = scores_at_once

    def data_loss(self, fits: Fits, parameters: Float32) -> tuple[float, Float64]:
        n_fits, n_classes, _ = fits.shape
        loss, gradient = 0.0, np.zeros(fits.shape)
        step = max(64, self._scores_at_once // (n_fits * n_classes))
        for begin in range(0, len(fits.rows), step):
            block = slice(begin, begin + step)
            rows = fits.rows[block]
            part, slopes = SLOPES[fits.loss](
                scores(parameters, rows), fits.targets[block], fits.row_weights[:, block]
            )
            loss += part
            by_class = slopes.reshape(n_fits * n_classes, len(rows)) @ rows
            gradient[:, :, :-1] += by_class.reshape(n_fits, n_classes, -1)
            gradient[:, :, -1] += slopes.sum(axis=2)
        return loss, gradient

    def gram(self, rows: Float32, weights: Float32) -> Float64:
        # One and the same array on both sides: numpy then computes one half only.
        scaled = rows * np.sqrt(weights)[:, None]
        return np.asarray(scaled.T @ scaled, dtype=np.float64)

    def times(self, left: Float32, right: Float32) -> Float32:
        return np.asarray(left @ right, dtype=np.float32)

    def hidden(self, rows: Float32, matrix: Float32) -> Float32:
        found = np.asarray(rows @ matrix, dtype=np.float32)
        return np.maximum(found, 0, out=found)

    def solve(self, positive: Float64, right: Float64) -> Float64:
        factor = cho_factor(positive, lower=True, overwrite_a=True, check_finite=False)
        return np.asarray(cho_solve(factor, right, check_finite=False))


def scores(parameters: Float32, rows: Float32) -> Float32:
    """Class scores, (n_fits, n_classes, n) float32: rows run along the last axis."""
    n_fits, n_classes, width = parameters.shape
    weights = np.ascontiguousarray(parameters[:, :, :-1]).reshape(n_fits * n_classes, width - 1)
    found = (weights @ rows.T).reshape(n_fits, n_classes, len(rows))
    found += parameters[:, :, -1:]
    return np.asarray(found, dtype=np.float32)


def engine_for(device: str) -> Engine:
    """For cpu, cuda or cuda:1: torch, imported here, on a GPU that it can use; else numpy."""
    if device == "cpu":
        return NumpyEngine()
    import torch

    from tlserve.training.torch_engine import TorchEngine

    # A GPU may be there for onnxruntime alone.
    return TorchEngine(device) if torch.cuda.is_available() else NumpyEngine()
