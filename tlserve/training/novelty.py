"""How unlike everything seen an image is: its distance to the nearest class centre, as a rank."""

from __future__ import annotations

import numpy as np

from tlserve.core.head import Novelty, centroid_distance
from tlserve.core.types import Features
from tlserve.training.scaling import Scaling
from tlserve.training.softmax import Float32, Float64, Ints

N_QUANTILES = 101
ENOUGH_HELD_OUT = 50
MOST_STAND_INS = 4_000
_TINY = 1e-12


def fit_novelty(
    scaling: Scaling, standardised: Float32, targets: Ints, n_classes: int, held_out: Features | None
) -> Novelty:
    """The novelty block of a head.

    standardised: (n, n_features) training rows; targets: (n,) their classes. held_out: raw rows that no
    part of the model has seen. Where they are fewer than 50, training rows stand in beside them, each
    measured against centres that leave it out.
    """
    counts = np.bincount(targets, minlength=n_classes).astype(np.float64)
    sums = np.zeros((n_classes, standardised.shape[1]))
    _add_by_class(sums, standardised, targets)
    centroids = _unit(sums).astype(np.float32)
    empty = np.zeros(0, np.float32)
    block = Novelty(scaling.mean, scaling.scale, centroids, empty, empty)
    distances = np.zeros(0) if held_out is None else centroid_distance(block, held_out).astype(np.float64)
    if len(distances) < ENOUGH_HELD_OUT:
        some = slice(None, None, 1 + len(targets) // MOST_STAND_INS)
        seen = _left_out_distances(standardised[some], targets[some], sums, counts, centroids)
        distances = np.concatenate([distances, seen])
    curve, ranks = distance_curve(distances)
    return Novelty(scaling.mean, scaling.scale, centroids, curve, ranks)


def distance_curve(distances: Float64) -> tuple[Float32, Float32]:
    """(distances, ranks), both ascending: the rank of a distance among the n given, n >= 1.

    The farthest of n has rank n / (n + 1), since the next image may well lie beyond it; rank 1 is reached
    as far again beyond it as it lies from the median.
    """
    n = len(distances)
    shares = np.linspace(0, 1, min(N_QUANTILES, max(2, n)))
    curve = np.quantile(distances, shares)
    beyond = curve[-1] + max(curve[-1] - float(np.median(distances)), 1e-6)
    return (
        np.append(curve, beyond).astype(np.float32),
        np.append(shares * n / (n + 1), 1.0).astype(np.float32),
    )


def _add_by_class(sums: Float64, rows: Float32, targets: Ints) -> None:
    order = np.argsort(targets, kind="stable")
    present, starts = np.unique(targets[order], return_index=True)
    sums[present] = np.add.reduceat(rows[order], starts, axis=0, dtype=np.float64)


def _left_out_distances(
    rows: Float32, targets: Ints, sums: Float64, counts: Float64, centroids: Float32
) -> Float64:
    """Cosine distance of each training row to the nearest centre, its own class's centre without it: (n,)."""
    unit = _unit(rows)
    nearness = unit @ centroids.T.astype(np.float64)
    own = np.einsum("ij,ij->i", unit, _unit(sums[targets] - rows))
    nearness[np.arange(len(rows)), targets] = np.where(counts[targets] > 1, own, -1.0)
    return np.asarray(1 - nearness.max(axis=1))


def _unit(vectors: Float64 | Float32) -> Float64:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, _TINY), dtype=np.float64)
