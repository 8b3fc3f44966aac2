"""Who is validated when: stratified folds, and a stratified sample where all rows would take too long."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tlserve.training.softmax import Ints

FLOPS_PER_EVALUATION = 2e9
"""What one evaluation of all folds together may cost: some 0.05 s on one core, a few hundred are needed."""
MOST_ROWS = 200_000
FEWEST_ROWS = 2_000


@dataclass(frozen=True, eq=False)
class FoldPlan:
    """rows: which rows take part. fold_of: the fold of each of those, in [0, n_folds).

    Only the first `n_fits` folds are validated; all others train each of them.
    """

    rows: Ints
    fold_of: Ints
    n_folds: int
    n_fits: int


def plan_folds(targets: Ints, n_classes: int, n_features: int, random: np.random.Generator) -> FoldPlan:
    """Five folds where they are cheap, else three, on as many rows as the budget allows.

    Where even the fewest rows (2,000, or 4 of each class) are dear, one fold of three is validated.
    """
    n_rows = len(targets)
    per_row = 4.0 * n_features * n_classes
    if n_rows <= MOST_ROWS and n_rows * per_row * 5 <= FLOPS_PER_EVALUATION:
        chosen, n_folds, n_fits = np.arange(n_rows), 5, 5
    else:
        affordable = int(FLOPS_PER_EVALUATION / (per_row * 3))
        fewest = max(FEWEST_ROWS, 4 * n_classes)
        n_folds, n_fits = 3, 3 if affordable >= fewest else 1
        size = min(n_rows, MOST_ROWS, max(affordable, fewest))
        chosen = stratified_sample(targets, size, random) if size < n_rows else np.arange(n_rows)
    return FoldPlan(chosen, stratified_folds(targets[chosen], n_folds, random), n_folds, n_fits)


def stratified_folds(targets: Ints, n_folds: int, random: np.random.Generator) -> Ints:
    """A fold for each row, in [0, n_folds): every class is dealt out evenly, one row after the other.

    A class with fewer rows than folds is validated in some folds only, and never misses from the rest.
    """
    order = random.permutation(len(targets))
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
