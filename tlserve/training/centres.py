"""A few directions that stand for many rows: k-means on the sphere, the same from the same seed."""

from __future__ import annotations

import numpy as np

from tlserve.training.arrays import Float32

_MOST_ROUNDS = 20
_TINY = np.float32(1e-12)


def unit(rows: Float32) -> Float32:
    """Each row at length 1, float32; a row of zeros stays one."""
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _TINY), np.float32)


def spherical_means(directions: Float32, n_centres: int, random: np.random.Generator) -> Float32:
    """At most `n_centres` unit rows, near which all of `directions` lie: (n, n_features) float32.

    directions: (n_rows, n_features), unit length. Begins with rows far from each other, and ends when no
    row changes its centre. A centre that loses all its rows stays where it was.
    Source: Dhillon and Modha 2001; Arthur and Vassilvitskii 2007 for the beginning.
    """
    if n_centres == 1:
        return unit(directions.mean(axis=0, keepdims=True))
    centres = _first_centres(directions, n_centres, random)
    nearest = np.full(len(directions), -1)
    for _ in range(_MOST_ROUNDS):
        now = (directions @ centres.T).argmax(axis=1)
        if (now == nearest).all():
            break
        nearest = now
        for centre in np.unique(nearest):
            centres[centre] = unit(directions[nearest == centre].mean(axis=0, keepdims=True))[0]
    return centres


def _first_centres(directions: Float32, n_centres: int, random: np.random.Generator) -> Float32:
    """Rows drawn one by one, each by how far it is from those before; fewer where all are alike."""
    chosen = [int(random.integers(len(directions)))]
    distance = 1 - directions @ directions[chosen[0]]
    while len(chosen) < n_centres:
        total = np.cumsum(np.maximum(distance, 0), dtype=np.float64)
        if total[-1] <= len(directions) * 1e-6:
            break
        chosen.append(int(np.searchsorted(total, random.random() * total[-1], side="right")))
        distance = np.minimum(distance, 1 - directions @ directions[chosen[-1]])
    return directions[chosen]
