"""Standardised columns, and the way back: a head that reads raw rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tlserve.core.head import Dense
from tlserve.core.types import Features
from tlserve.training.arrays import Float32, Float64

FAINT = 1e-3
"""A column that varies less than this share of the middling one is noise, and stays small."""


@dataclass(frozen=True, eq=False)
class Scaling:
    """mean, scale: (n_features,) float32."""

    mean: Float32
    scale: Float32

    @classmethod
    def of(cls, rows: Features) -> Scaling:
        """From training rows; a constant column keeps its size."""
        mean = rows.mean(axis=0, dtype=np.float64)
        spread = rows.std(axis=0, dtype=np.float64)
        varying = spread[spread > 0]
        least = FAINT * float(np.median(varying)) if varying.size else 1.0
        # Rounding alone makes a constant column of large values vary a little.
        constant = spread <= 1e-6 * np.abs(mean)
        scale = np.where(constant, 1.0, np.maximum(spread, least))
        return cls(mean.astype(np.float32), scale.astype(np.float32))

    def apply(self, rows: Features) -> Float32:
        """A standardised copy."""
        standardised = rows - self.mean
        standardised /= self.scale
        return np.asarray(standardised, dtype=np.float32)

    def fold_in(self, parameters: Float64) -> Dense:
        """The layer on raw rows that equals `parameters`, (n_classes, n_features + 1), on scaled ones."""
        weight = parameters[:, :-1] / self.scale
        bias = parameters[:, -1] - weight @ self.mean.astype(np.float64)
        return Dense(np.ascontiguousarray(weight.T, dtype=np.float32), bias.astype(np.float32))

    def unfold(self, layer: Dense) -> Float64:
        """The inverse of `fold_in`."""
        weight = layer.weight.T.astype(np.float64)
        bias = layer.bias.astype(np.float64) + weight @ self.mean.astype(np.float64)
        return np.concatenate([weight * self.scale, bias[:, None]], axis=1)
