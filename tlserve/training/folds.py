"""Who is validated when: stratified folds, and a stratified sample where all rows would take too long."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tlserve.training.arrays import Ints

FLOPS_PER_EVALUATION = 2e9
"""What one evaluation of all folds together may cost: some 0.05 s on one core, a few hundred are needed."""
MOST_ROWS = 200_000
FEWEST_ROWS = 2_000


@dataclass(frozen=True, eq=False)
class FoldPlan:
    """rows: which images take part, ascending. fold_of: the fold of each of those, in [0, n_folds).

    Only the first `n_fits` folds are validated; all others train each of them.
    """

    rows: Ints
    fold_of: Ints
    n_folds: int
    n_fits: int


def plan_folds(
    targets: Ints,
    n_classes: int,
    n_features: int,
    random: np.random.Generator,
    *,
    groups: Ints | None = None,
    rows_per_image: float = 1.0,
) -> FoldPlan:
    """Five folds where they are cheap, else three, on as many images as the budget allows.

    targets: (n_images,); groups: (n_images,) images that share a number share a fold. rows_per_image: views
    cost too. Where even the fewest images (2,000, or 4 of each class) are dear, one fold of three is
    validated.
    """
    n_images = len(targets)
    size, n_folds, n_fits = plan_size(n_images, n_classes, n_features, rows_per_image)
    chosen = stratified_sample(targets, size, random) if size < n_images else np.arange(n_images)
    together = None if groups is None else groups[chosen]
    return FoldPlan(chosen, grouped_folds(targets[chosen], together, n_folds, random), n_folds, n_fits)


def plan_size(
    n_images: int, n_classes: int, n_features: int, rows_per_image: float = 1.0
) -> tuple[int, int, int]:
    """(images that take part, folds, folds that are validated), as `plan_folds` has it."""
    per_image = 4.0 * n_features * n_classes * rows_per_image
    if n_images <= MOST_ROWS and n_images * per_image * 5 <= FLOPS_PER_EVALUATION:
        return n_images, 5, 5
    affordable = int(FLOPS_PER_EVALUATION / (per_image * 3))
    fewest = max(FEWEST_ROWS, 4 * n_classes)
    return min(n_images, MOST_ROWS, max(affordable, fewest)), 3, 3 if affordable >= fewest else 1


def grouped_folds(targets: Ints, groups: Ints | None, n_folds: int, random: np.random.Generator) -> Ints:
    """As `stratified_folds`, but images of one group share a fold: its first image is dealt out for all.

    Large groups are dealt first, so that the folds come out about equally large. A class whose images are
    all of one group is dealt out image by image all the same: it would be missing from a fit otherwise.
    """
    if groups is None:
        return stratified_folds(targets, n_folds, random)
    apart = np.where(_is_whole_class(targets, groups), groups.max() + 1 + np.arange(len(groups)), groups)
    _, first, group_of, sizes = np.unique(apart, return_index=True, return_inverse=True, return_counts=True)
    if len(first) == len(targets):
        return stratified_folds(targets, n_folds, random)
    return stratified_folds(targets[first], n_folds, random, sizes)[group_of]


def _is_whole_class(targets: Ints, groups: Ints) -> npt.NDArray[np.bool_]:
    """(n,): whether all images of this image's class are of one group."""
    n_classes = int(targets.max()) + 1
    least, most = np.full(n_classes, groups.max()), np.full(n_classes, groups.min())
    np.minimum.at(least, targets, groups)
    np.maximum.at(most, targets, groups)
    return np.asarray((least == most)[targets])


def stratified_folds(
    targets: Ints, n_folds: int, random: np.random.Generator, sizes: Ints | None = None
) -> Ints:
    """A fold for each row, in [0, n_folds): every class is dealt out evenly, one row after the other.

    sizes: what each row stands for; within a class the largest come first.

    A class with fewer rows than folds is validated in some folds only, and never misses from the rest.
    """
    order = random.permutation(len(targets))
    if sizes is not None:
        order = order[np.argsort(-sizes[order], kind="stable")]
    by_class = order[np.argsort(targets[order], kind="stable")]
    fold_of = np.empty(len(targets), dtype=np.intp)
    fold_of[by_class] = np.arange(len(targets)) % n_folds
    return fold_of


def stratified_sample(targets: Ints, size: int, random: np.random.Generator) -> Ints:
    """About `size` rows, ascending: the same share of each class, but at least 4 of it where it has them."""
    counts = np.bincount(targets)
    share = size / len(targets)
    wanted = np.minimum(counts, np.maximum(4, np.ceil(counts * share))).astype(np.intp)
    order = random.permutation(len(targets))
    by_class = order[np.argsort(targets[order], kind="stable")]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    rank = np.arange(len(targets)) - np.repeat(starts, counts)
    return np.sort(by_class[rank < np.repeat(wanted, counts)])
