"""What each tap of a backbone knows about these classes: the measured side of choosing a strategy.

Each tap alone, and the last tap with ever earlier ones beside it, is scored by the same linear model on the
same folds. Where an earlier set beats the last tap, the pictures differ from what the backbone was made for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tlserve.core.assessment import TapScore
from tlserve.core.types import Features
from tlserve.training.arrays import Float32, Float64, Ints
from tlserve.training.evidence import log_me
from tlserve.training.folds import grouped_folds, stratified_sample
from tlserve.training.linear import TrainingCancelled
from tlserve.training.linear_score import Chain, Cut
from tlserve.training.scaling import Scaling

N_FOLDS = 5
MOST_IMAGES = 6_000
"""More say little more: one standard error is then half a point."""
LOG_ME_IMAGES = 500

Read = Callable[[tuple[str, ...]], Features]


def tap_sets(taps: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """What is compared: the last tap, it with the one before, ... with all; then each earlier tap alone.

    taps: from shallow to deep, as the backbone declares them; so is each set.
    """
    nested = [tuple(taps[start:]) for start in range(len(taps) - 1, -1, -1)]
    return (*nested, *((tap,) for tap in reversed(taps[:-1])))


def score_taps(
    read: Read,
    taps: Sequence[str],
    targets: Ints,
    n_classes: int,
    *,
    groups: Ints | None = None,
    seed: int = 0,
    cancelled: Callable[[], bool] | None = None,
) -> tuple[TapScore, ...]:
    """A score for each of `tap_sets(taps)`, in that order; the first is the last tap.

    read: (n_images, width) float32 rows of the taps it is given; it is called with one tap at a time.
    taps: from shallow to deep. targets: (n_images,) in [0, n_classes). groups: (n_images,) images that
    share a number are never on both sides of a fold. The same seed gives the same scores.
    Only `images_to_score` take part. Raises TrainingCancelled.
    """

    def check() -> None:
        if cancelled is not None and cancelled():
            raise TrainingCancelled

    random = np.random.default_rng(seed)
    chosen = images_to_score(targets, n_classes, seed)
    labels = targets[chosen]
    group_of = np.unique(chosen if groups is None else groups[chosen], return_inverse=True)[1]
    block = _Block.of(read, taps, chosen, check)
    fold_of = grouped_folds(labels, group_of, N_FOLDS, random)
    cut = Cut(block.rows, np.eye(n_classes, dtype=np.float32)[labels], fold_of, N_FOLDS)
    hits, even = cut.hits(block.chains(), check).astype(np.float64)
    even_weights = cut.row_weights[1] / n_classes
    witness = stratified_sample(labels, min(len(labels), LOG_ME_IMAGES), random)
    scores = []
    for names, right, right_evenly in zip(tap_sets(taps), hits, even, strict=True):
        check()
        scores.append(
            TapScore(
                taps=names,
                n_features=sum(block.widths[tap] for tap in names),
                accuracy=float(right.mean()),
                standard_error=standard_error(right, group_of),
                even_accuracy=float(right_evenly @ even_weights),
                log_me=log_me(block.rows[np.ix_(witness, block.at(names))], labels[witness], n_classes),
                gain=float((right - hits[0]).mean()),
                gain_standard_error=standard_error(right - hits[0], group_of),
            )
        )
    return tuple(scores)


def images_to_score(targets: Ints, n_classes: int, seed: int = 0) -> Ints:
    """Which images take part, ascending: all, or about 6,000 with the same share of each class.

    A caller with a million rows may read these only and give them to `score_taps`, which then takes all.
    """
    if len(targets) <= MOST_IMAGES + 4 * n_classes:  # a sample may be that much larger than asked
        return np.arange(len(targets))
    return stratified_sample(targets, MOST_IMAGES, np.random.default_rng(seed))


def chance_level(targets: Ints) -> float:
    """What always guessing the largest class would reach."""
    return float(np.bincount(targets).max()) / len(targets)


def narrowed(rows: Float32) -> Float32:
    """The same rows turned onto as many axes as there are rows, where they have more columns.

    All distances and products stay, so no ridge and no evidence changes; only the cost does.
    """
    if len(rows) >= rows.shape[1]:
        return rows
    squared, directions = np.linalg.eigh(rows @ rows.T)
    return np.asarray(directions * np.sqrt(np.maximum(squared, 0)), dtype=np.float32)


def standard_error(values: Float64, groups: Ints) -> float:
    """Of the mean of `values`; a group of near duplicates counts as one observation, not as many."""
    sums = np.bincount(groups, weights=values - values.mean())
    return float(np.sqrt((sums**2).sum())) / len(values)


@dataclass(frozen=True, eq=False)
class _Block:
    """All taps side by side, the last one first: the order in which sets nest.

    rows: (n, n_columns) float32, standardised. columns: where each tap stands. widths: as declared; `rows`
    may hold fewer columns of a tap.
    """

    rows: Float32
    columns: dict[str, Ints]
    widths: dict[str, int]

    @classmethod
    def of(cls, read: Read, taps: Sequence[str], chosen: Ints, check: Callable[[], None]) -> _Block:
        parts: list[Float32] = []
        columns: dict[str, Ints] = {}
        widths: dict[str, int] = {}
        start = 0
        for tap in reversed(taps):
            check()
            raw = read((tap,))[chosen]
            part = narrowed(Scaling.of(raw).apply(raw))
            parts.append(part)
            columns[tap] = np.arange(start, start + part.shape[1])
            widths[tap] = raw.shape[1]
            start += part.shape[1]
        return cls(np.concatenate(parts, axis=1), columns, widths)

    def chains(self) -> list[Chain]:
        """In the order of `tap_sets`."""
        last, *earlier = self.columns.values()
        ends = [int(one[-1]) + 1 for one in (last, *earlier)]
        nested = Chain(np.arange(self.rows.shape[1]), tuple(ends))
        return [nested, *(Chain(one, (len(one),)) for one in earlier)]

    def at(self, taps: Sequence[str]) -> Ints:
        return np.concatenate([self.columns[tap] for tap in taps])
