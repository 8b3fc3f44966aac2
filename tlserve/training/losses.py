"""What a fit pays for a wrong score: three losses of a linear head, and their slopes.

Each takes `scores`, (n_fits, n_classes, n) float32, which it overwrites; `targets`, (n,); and `weights`,
(n_fits, n) float32. It gives the weighted loss summed over fits and rows, and its slope by each score in the
shape of `scores`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from tlserve.training.arrays import Float32, Ints

Loss = Literal["softmax", "sigmoid", "squared_hinge"]
Slope = Callable[[Float32, Ints, Float32], tuple[float, Float32]]


def softmax(scores: Float32, targets: Ints, weights: Float32) -> tuple[float, Float32]:
    """Log loss of multinomial logistic regression."""
    at = np.arange(scores.shape[2])
    scores -= scores.max(axis=1, keepdims=True)
    of_target = scores[:, targets, at]
    np.exp(scores, out=scores)
    total = scores.sum(axis=1)
    loss = float(((np.log(total) - of_target) * weights).sum(dtype=np.float64))
    scores *= (weights / total)[:, None, :]
    scores[:, targets, at] -= weights
    return loss, scores


def sigmoid(scores: Float32, targets: Ints, weights: Float32) -> tuple[float, Float32]:
    """Log loss of one logistic regression for each class against all others."""
    at = np.arange(scores.shape[2])
    of_target = scores[:, targets, at]
    # log(1 + e^s), written so that neither end overflows.
    tail = np.exp(-np.abs(scores))
    each = np.maximum(scores, 0) + np.log1p(tail)
    loss = float(((each.sum(axis=1) - of_target) * weights).sum(dtype=np.float64))
    slopes = np.where(scores >= 0, np.float32(1), tail) / (1 + tail)
    slopes[:, targets, at] -= 1
    slopes *= weights[:, None, :]
    return loss, slopes


def squared_hinge(scores: Float32, targets: Ints, weights: Float32) -> tuple[float, Float32]:
    """max(0, 1 - margin)^2 of one linear support vector machine for each class against all others."""
    at = np.arange(scores.shape[2])
    of_target = scores[:, targets, at]
    np.maximum(scores + 1, 0, out=scores)
    missing = np.maximum(1 - of_target, 0)
    scores[:, targets, at] = -missing
    loss = float(((scores * scores).sum(axis=1) * weights).sum(dtype=np.float64))
    scores *= 2 * weights[:, None, :]
    return loss, scores


SLOPES: dict[Loss, Slope] = {"softmax": softmax, "sigmoid": sigmoid, "squared_hinge": squared_hinge}
