"""Accuracy against the number of images, and what it says about collecting more of them.

Each point is a ridge fit on a part of the cached rows, the smaller parts inside the larger ones. Ridge in
closed form costs the same for two classes and for a thousand, and its one penalty does well on ten images and
on ten thousand; so the curve ends near the version's own accuracy, not always exactly on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.linalg import solve

from tlserve.core.judge import MIN_EVIDENCE, wilson_interval
from tlserve.core.types import Features
from tlserve.training.arrays import Float32, Float64, Ints
from tlserve.training.examples import Examples
from tlserve.training.folds import grouped_folds
from tlserve.training.linear import TrainingCancelled
from tlserve.training.power_law import Gain, gain_of_doubling
from tlserve.training.scaling import Scaling

N_SIZES = 8
FEWEST_PER_CLASS = 2
N_ORDERS = 3
N_FOLDS = 5
FLOPS = 6e10
"""What the dearest fit may cost: a second or two of one core. 17,000 rows of 1,280 columns."""
SLIGHT = 0.005
"""Half a point: what twice as many images must promise to be worth a sentence."""


@dataclass(frozen=True, slots=True)
class CurvePoint:
    n_images: int
    accuracy: float
    low: float
    high: float
    """95 % interval (Wilson) over the images that judge."""
    n_fits: int
    """On different parts of the images; their mean is the accuracy."""


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """`dataclasses.asdict` gives JSON."""

    judged_on: Literal["held_out", "out_of_fold"]
    n_judged: int
    n_images: int
    """Training images there are; the curve may end earlier."""
    points: tuple[CurvePoint, ...]
    gain: Gain | None
    """Of twice as many images as there are; None where the curve cannot tell."""
    reading: str
    """The same in a sentence."""


def learning_curve(
    examples: Examples,
    held_out_rows: Features | None = None,
    held_out_targets: Ints | None = None,
    *,
    seed: int = 0,
    n_sizes: int = N_SIZES,
    flops: float = FLOPS,
    cancelled: Callable[[], bool] = lambda: False,
) -> LearningCurve:
    """The curve from 2 images per class up to all, in equal ratios.

    held_out_rows: (n_held_out, n_features) raw; held_out_targets: (n_held_out,) classes, -1 where the
    examples do not know it. They judge where there are at least 30; else the training images judge each other
    in folds.
    flops: what one fit may cost; the curve ends where all images would cost more. Views are left aside.
    The same arguments give the same curve. Raises TrainingCancelled.
    """
    examples, random = examples.originals(), np.random.default_rng(seed)
    panels = _held_out(examples, held_out_rows, held_out_targets, random)
    on: Literal["held_out", "out_of_fold"] = "held_out" if panels else "out_of_fold"
    panels = panels or _folds(examples, random)
    n_judged = max(int(panel.positions.max()) + 1 for panel in panels)
    sizes = _sizes(examples, min(len(panel.order) for panel in panels), n_sizes, flops)
    right, n_fits = np.zeros((len(sizes), n_judged)), np.zeros(len(sizes), dtype=np.intp)
    for at, size in enumerate(sizes.tolist()):
        asked = [panel for panel in panels if panel.is_worth_asking(size, examples.rows.shape[1], flops)]
        for panel in asked:
            if cancelled():
                raise TrainingCancelled
            right[at, panel.positions] += _hits(examples, panel, size)
        n_fits[at] = len(asked)
        if on == "held_out":
            right[at] /= len(asked)
    gain = gain_of_doubling(sizes, right, examples.n_images, seed=seed)
    return LearningCurve(
        judged_on=on,
        n_judged=n_judged,
        n_images=examples.n_images,
        points=tuple(_point(*one) for one in zip(sizes.tolist(), right, n_fits.tolist(), strict=True)),
        gain=gain,
        reading=_reading(gain, int(sizes[-1]), examples.n_images),
    )


@dataclass(frozen=True, eq=False)
class _Panel:
    """Images that judge, and the order in which others join the training that they judge.

    order: positions among the training images. rows: (n, n_features); targets: (n,). positions: (n,) of each
    among all that judge. is_repeat: another panel holds the same images.
    """

    order: Ints
    rows: Features
    targets: Ints
    positions: Ints
    is_repeat: bool = False

    def is_worth_asking(self, size: int, n_features: int, flops: float) -> bool:
        """A repeat says nothing new of all images, and may cost only little."""
        return not self.is_repeat or (size < len(self.order) and 12 * _cost(size, n_features) <= flops)


def _held_out(
    examples: Examples, rows: Features | None, targets: Ints | None, random: np.random.Generator
) -> list[_Panel]:
    """The same judges under several orders; none where there are too few."""
    if rows is None or targets is None or (targets >= 0).sum() < MIN_EVIDENCE:
        return []
    rows, targets = rows[targets >= 0], targets[targets >= 0]
    everything, positions = np.arange(examples.n_images), np.arange(len(targets))
    return [
        _Panel(_stratified_order(examples.targets, everything, random), rows, targets, positions, repeat > 0)
        for repeat in range(N_ORDERS)
    ]


def _folds(examples: Examples, random: np.random.Generator) -> list[_Panel]:
    """The training images in turn; near duplicates together."""
    fold_of = grouped_folds(examples.targets, examples.groups, N_FOLDS, random)
    panels = []
    for fold in np.unique(fold_of):
        judging, learning = np.flatnonzero(fold_of == fold), np.flatnonzero(fold_of != fold)
        order = _stratified_order(examples.targets, learning, random)
        panels.append(_Panel(order, examples.rows[judging], examples.targets[judging], judging))
    return panels


def _stratified_order(targets: Ints, among: Ints, random: np.random.Generator) -> Ints:
    """`among`, shuffled so that every beginning holds the classes in about their shares, 2 of each first."""
    shuffled = random.permutation(among)
    by_class = shuffled[np.argsort(targets[shuffled], kind="stable")]
    counts = np.bincount(targets[by_class])
    rank = np.arange(len(by_class)) - np.repeat(np.cumsum(counts) - counts, counts)
    joins = np.where(
        rank < FEWEST_PER_CLASS, rank - FEWEST_PER_CLASS, (rank + 0.5) / np.repeat(counts, counts)
    )
    return np.asarray(by_class[np.argsort(joins, kind="stable")])


def _sizes(examples: Examples, most: int, n_sizes: int, flops: float) -> Ints:
    """Numbers of images in equal ratios, ascending; the last is the most that can be afforded."""
    while _cost(most, examples.rows.shape[1]) > flops:
        most = most * 9 // 10
    fewest = min(most, FEWEST_PER_CLASS * examples.n_classes)
    return np.unique(np.geomspace(fewest, most, n_sizes).round().astype(np.intp))


def _cost(n_images: int, n_features: int) -> float:
    """Of one fit, in floating point operations."""
    small, large = sorted((n_images, n_features))
    return float(small) ** 2 * (2 * large + small)


def _hits(examples: Examples, panel: _Panel, size: int) -> Float64:
    """(n,) 1 where a fit on the first `size` images answers a judging image right, else 0.

    The penalty is the number of columns: it expects scores of about unit variance.
    """
    chosen = panel.order[:size]
    scaling = Scaling.of(examples.rows[chosen])
    rows = scaling.apply(examples.rows[chosen])
    wanted = np.eye(examples.n_classes, dtype=np.float32)[examples.targets[chosen]]
    mean = wanted.mean(axis=0)
    scores = scaling.apply(panel.rows) @ _ridge(rows, wanted - mean) + mean
    return np.asarray(scores.argmax(axis=1) == panel.targets, dtype=np.float64)


def _ridge(rows: Float32, wanted: Float32) -> Float32:
    """(n_features, n_classes): least squares with a penalty, from whichever of the two systems is smaller."""
    n_images, n_features = rows.shape
    penalty = np.float32(n_features) * np.eye(min(rows.shape), dtype=np.float32)
    if n_images < n_features:
        found = rows.T @ solve(rows @ rows.T + penalty, wanted, assume_a="pos")
    else:
        found = solve(rows.T @ rows + penalty, rows.T @ wanted, assume_a="pos")
    return np.asarray(found, dtype=np.float32)


def _point(size: int, right: Float64, n_fits: int) -> CurvePoint:
    accuracy = float(right.mean())
    low, high = wilson_interval(round(right.sum()), len(right))
    return CurvePoint(size, accuracy, low, high, n_fits)


def _reading(gain: Gain | None, last: int, n_images: int) -> str:
    if gain is None:
        return "The curve is too short to tell whether more images would help."
    upto = "" if last > n_images / 2 else f" (measured with up to {last:,} of {n_images:,} images)"
    points = f"{gain.expected * 100:.1f} points for twice as many"
    if gain.low >= SLIGHT / 2 and gain.expected >= SLIGHT:
        return f"More images would probably still help: about +{points}{upto}."
    if gain.expected >= SLIGHT:
        return f"More images may still help: about +{points}, though chance may explain it{upto}."
    return f"The curve is flat: more images of the same kind would hardly help (+{points}){upto}."
