"""Views: the crops of a picture that the teacher describes and the student learns from.

A view is an affine place in the picture. The teacher looks at exactly the crop that the student will see:
a target that belongs to another crop teaches the student to guess.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

Places = npt.NDArray[np.float32]
"""(n, 4): half width, half height, centre x, centre y, in the picture's coordinates from -1 to 1."""

SMALLEST_AREA = 0.35
WIDEST_ASPECT = 1.25


def view_places(n: int, n_views: int, seed: int) -> npt.NDArray[np.float32]:
    """(n_views, n, 4): the whole picture first, then crops of 35 to 100 % of its area."""
    views = [np.tile(np.array([1, 1, 0, 0], np.float32), (n, 1))]
    for view in range(1, n_views):
        random = np.random.default_rng((seed, view))
        area = random.uniform(SMALLEST_AREA, 1, n)
        aspect = np.exp(random.uniform(-np.log(WIDEST_ASPECT), np.log(WIDEST_ASPECT), n))
        half = np.minimum(1, np.stack([np.sqrt(area * aspect), np.sqrt(area / aspect)], axis=1))
        centre = (1 - half) * random.uniform(-1, 1, (n, 2))
        views.append(np.concatenate([half, centre], axis=1).astype(np.float32))
    return np.stack(views)


def look(pictures: Tensor, places: Tensor, side: int) -> Tensor:
    """Each picture's place, resampled to `side` pixels; a negative half width gives the mirror image.

    pictures: (n, 3, h, w); places: (n, 4). Returns (n, 3, side, side).
    """
    n = len(pictures)
    affine = torch.zeros(n, 2, 3)
    affine[:, 0, 0], affine[:, 1, 1] = places[:, 0], places[:, 1]
    affine[:, :, 2] = places[:, 2:]
    grid = functional.affine_grid(affine, [n, 3, side, side], align_corners=False)
    return functional.grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)
