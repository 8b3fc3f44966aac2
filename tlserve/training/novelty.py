"""How unlike everything seen an image is: its distance to the nearest of a few centres, as a rank.

Centres of each class, not its rows: they fit into a budget of kilobytes. Where enough images were held out,
the head's own doubt counts as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tlserve.core.head import Novelty, centroid_distance, farness
from tlserve.core.types import Features
from tlserve.training.arrays import Float32, Float64, Ints
from tlserve.training.centres import spherical_means, unit
from tlserve.training.scaling import Scaling

CENTRES_PER_CLASS = 8
"""More of them follow single images, and forgive what happens to resemble one."""
ROWS_PER_CENTRE = 5
MOST_ROWS_PER_CLASS = 2_000
ENOUGH_HELD_OUT = 50
MOST_STAND_INS = 4_000
STAND_IN_FOLDS = 5
SURE_QUANTILE = 0.9
"""A head surer than this share of held-out images is not in doubt at all: else a row of great size, on which
every linear score is great, would be taken for well known."""
N_QUANTILES = 101
STEEPEST = 300.0
"""Ranks per unit of distance: beyond, the rounding of float32 would show in the score."""
OFFSET = 5.0
"""A column whose mean is this many times its spread looks the same in all images; its mean is taken off."""
GIANT = 2.0
"""A column this many times as large as the middling one is made no larger: it would decide alone."""
_BYTES_OF_THE_REST = 1_024
"""The curve, 102 distances and ranks in float32, and two numbers."""


def fit_novelty(
    scaling: Scaling,
    standardised: Float32,
    targets: Ints,
    n_classes: int,
    held_out: Features | None,
    *,
    held_out_scores: Float32 | None = None,
    budget_kb: int = 256,
    seed: int = 0,
) -> Novelty | None:
    """The novelty block of a head; none where not even one centre fits into the budget.

    standardised: (n, n_features) training rows; targets: (n,) their classes. held_out: raw rows that no
    part of the model has seen; held_out_scores: (n_held_out, n_classes) what the head says of them, before
    temperature and link. Where they are fewer than 50, training rows stand in beside them, each measured
    against centres made without it; of those the head is too sure to tell its doubt, so it is left out.
    budget_kb: the most that the block takes in the head's file, in 1,024 bytes. The same arguments give the
    same block.
    """
    random = np.random.default_rng(seed)
    view = _View.of(scaling)
    room = centre_room(budget_kb, len(view.mean), len(view.scale), standardised.shape[1])
    if room < 1:
        return None
    rows = _Rows(view, scaling, standardised, _members(targets, n_classes, random))
    nothing = np.zeros(0, np.float32)
    block = Novelty(view.mean, view.scale, rows.centres(rows.members, room, random), nothing, nothing)
    if held_out is not None and len(held_out) >= ENOUGH_HELD_OUT:
        return measured(block, held_out, held_out_scores)
    seen = rows.left_out_distances(block, room, random)
    far = seen if held_out is None else np.concatenate([centroid_distance(block, held_out), seen])
    curve, ranks = distance_curve(far.astype(np.float64))
    return replace(block, distances=curve, ranks=ranks)


def centre_room(budget_kb: int, n_means: int, n_scales: int, n_features: int) -> int:
    """How many centres fit into the budget beside a mean and a scale of so many numbers; may be below 1."""
    return (budget_kb * 1024 - _BYTES_OF_THE_REST - 4 * n_means - 2 * n_scales) // (2 * n_features)


def measured(block: Novelty, held_out: Features, scores: Float32 | None) -> Novelty:
    """The block with its scale anew, from 50 held-out images or more; arguments as in `fit_novelty`."""
    block, far = _with_doubt(block, held_out, scores)
    curve, ranks = distance_curve(far.astype(np.float64))
    return replace(block, distances=curve, ranks=ranks)


def distance_curve(distances: Float64) -> tuple[Float32, Float32]:
    """(distances, ranks), both ascending: the rank of a distance among the n given, n >= 1.

    The farthest of n has rank n / (n + 1), since the next image may well lie beyond it; rank 1 is reached
    as far again beyond it as it lies from the median. Distances closer than a float32 can tell apart are
    drawn out, so that no rank hangs on rounding.
    """
    n = len(distances)
    shares = np.linspace(0, 1, min(N_QUANTILES, max(2, n)))
    curve = np.quantile(distances, shares)
    beyond = curve[-1] + max(curve[-1] - float(np.median(distances)), 1e-6)
    ranks = np.append(shares * n / (n + 1), 1.0)
    least = ranks / STEEPEST
    curve = np.maximum.accumulate(np.append(curve, beyond) - least) + least
    return curve.astype(np.float32), ranks.astype(np.float32)


def _with_doubt(block: Novelty, held_out: Features, scores: Float32 | None) -> tuple[Novelty, Float32]:
    """The block with doubt beside distance, each varying as much as the other among held-out images, and
    how far those are."""
    distances = centroid_distance(block, held_out)
    if scores is None:
        return block, distances
    best = scores.max(axis=1)
    sure_at = float(np.quantile(best, SURE_QUANTILE))
    spread = float(np.maximum(sure_at - best, 0).std())
    weight = float(distances.std()) / spread if spread > 0 else 0.0
    # As the head's file keeps them, so that the curve is that of the block read back.
    block = replace(block, doubt_weight=float(np.float32(weight)), sure_at=float(np.float32(sure_at)))
    return block, farness(block, held_out, scores)


@dataclass(frozen=True, eq=False)
class _View:
    """What is done to raw columns before their direction counts; mean, scale: as in `Novelty`."""

    mean: Float32
    scale: Float32

    @classmethod
    def of(cls, scaling: Scaling) -> _View:
        spread = scaling.scale.astype(np.float64)
        mean = np.where(np.abs(scaling.mean) > OFFSET * spread, scaling.mean, 0.0)
        size = np.hypot(scaling.mean - mean, spread)
        scale = np.clip(size / (GIANT * np.median(size)), 1, np.finfo(np.float16).max)
        return cls(
            mean.astype(np.float32) if mean.any() else np.zeros(1, np.float32),
            rounded(scale) if (scale > 1).any() else np.ones(1, np.float32),
        )


@dataclass(frozen=True, eq=False)
class _Rows:
    """Training rows as directions; members: the rows of each class, in an order drawn from the seed."""

    view: _View
    scaling: Scaling
    standardised: Float32
    members: Sequence[Ints]

    def directions(self, at: Ints) -> Float32:
        """(len(at), n_features) float32, unit length."""
        stretch = self.scaling.scale / self.view.scale
        shift = (self.scaling.mean - self.view.mean) / self.view.scale
        return unit(self.standardised[at] * stretch + shift)

    def centres(self, members: Sequence[Ints], room: int, random: np.random.Generator) -> Float32:
        """At most `room`, (n, n_features): some for each class, or shared by alike classes if need be."""
        each = min(CENTRES_PER_CLASS, room // len(members))
        found = []
        for rows in members:
            directions = self.directions(rows[:MOST_ROWS_PER_CLASS])
            found.append(spherical_means(directions, max(1, min(each, len(rows) // ROWS_PER_CENTRE)), random))
        centres = np.concatenate(found)
        return rounded(spherical_means(centres, room, random) if len(centres) > room else centres)

    def left_out_distances(self, block: Novelty, room: int, random: np.random.Generator) -> Float32:
        """Distance of training rows to centres that were made without them: (n,), n <= 4,000."""
        most = max(2, MOST_STAND_INS // len(self.members))
        found = []
        for fold in range(STAND_IN_FOLDS):
            out, kept = [], []
            for number, rows in enumerate(self.members):
                # The first of each class in turn: else all classes of one image would be gone at once.
                first = (fold + number) % STAND_IN_FOLDS
                at = np.arange(first, min(most, len(rows)), STAND_IN_FOLDS)
                out.append(rows[at])
                kept.append(np.delete(rows, at))
            left_out, kept = np.concatenate(out), [rows for rows in kept if len(rows)]
            if len(left_out) and kept:
                without = replace(block, centroids=self.centres(kept, room, random))
                raw = self.standardised[left_out] * self.scaling.scale + self.scaling.mean
                found.append(centroid_distance(without, raw))
        return np.concatenate(found)


def _members(targets: Ints, n_classes: int, random: np.random.Generator) -> list[Ints]:
    shuffled = random.permutation(len(targets))
    by_class = shuffled[np.argsort(targets[shuffled], kind="stable")]
    groups = np.split(by_class, np.cumsum(np.bincount(targets, minlength=n_classes))[:-1])
    return [rows for rows in groups if len(rows)]


def rounded(values: Float32 | Float64) -> Float32:
    """To what the head's file keeps in two bytes each."""
    return np.asarray(values.astype(np.float16), dtype=np.float32)
