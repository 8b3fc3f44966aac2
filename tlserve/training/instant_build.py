"""Into an `InstantState` and out of it: rows of images, each to the part that teaches or that validates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tlserve.core.errors import NonFiniteRow
from tlserve.training.arrays import Float32, Ints
from tlserve.training.gram import Gram, class_weight
from tlserve.training.instant_kept import Kept
from tlserve.training.kept import KeptRows
from tlserve.training.ridge import total_variance
from tlserve.training.rows import RowSource, blocks, evenly
from tlserve.training.scaling import Scaling
from tlserve.training.validating import MOST, Validators

SCALING_ROWS = 20_000
"""Columns are standardised by so many rows, evenly spaced: more change nothing."""
VARIANCE_ROWS = 1_000

Labelled = tuple[str, str]
"""A training image: digest and label."""


def built(
    source: RowSource,
    digests: Sequence[str],
    labels: Sequence[str],
    keys: Sequence[str],
    *,
    taps: tuple[str, ...],
    kept_bytes: int,
    most_validating: int = MOST,
    seed: int = 0,
    on_block: Callable[[], None] = lambda: None,
    cancelled: Callable[[], bool] | None = None,
) -> Kept:
    """All rows of `source`, in this order. See `InstantState.build`."""
    if len(source) != len(digests) or len(set(labels)) < 2:
        raise ValueError(f"{len(source)} rows of {len(digests)} images with {len(set(labels))} labels")
    scaling, variance = _scaling(source)
    with_rows = 4 * len(source) * source.n_features <= kept_bytes
    only_counts = with_rows and len(source) < source.n_features
    weights = _weights(labels)
    kept = Kept(
        scaling,
        taps,
        variance,
        Validators.of(labels, keys, most=most_validating),
        Gram(scaling, weights, only_counts=only_counts),
        Gram(scaling, weights, only_counts=only_counts),
        KeptRows(source.n_features),
        KeptRows(source.n_features) if with_rows else None,
        seed,
    )
    for at, rows in blocks(source, cancelled=cancelled):
        add(kept, digests[at], labels[at], keys[at], rows)
        on_block()
    kept.taught.settle()
    kept.judging.settle()
    return kept


def add(
    kept: Kept, digests: Sequence[str], labels: Sequence[str], keys: Sequence[str], rows: Float32
) -> None:
    """Images that are not there yet; their classes are known to the validators. Raises NonFiniteRow."""
    # One sum tells of any NaN or infinity in it.
    if not np.isfinite(rows.sum(dtype=np.float64)):
        raise NonFiniteRow("a training row holds NaN or infinity")
    validates = [image in kept.validators for image in zip(labels, keys, strict=True)]
    for part in _parts(kept, validates):
        names, chosen = [labels[at] for at in part.at], _taken(rows, part.at)
        standardised = kept.scaling.apply(chosen)
        part.gram.add(standardised, names, standardised=True)
        if part.rows is not None:
            part.rows.add([digests[at] for at in part.at], names, standardised)


def remove(kept: Kept, removed: Sequence[Labelled], rows: Float32) -> None:
    """Images that are there. Raises ValueError where they cannot be."""
    for part in _parts(kept, [digest in kept.validating for digest, _ in removed]):
        part.gram.remove(rows[part.at], [removed[at][1] for at in part.at])
        if part.rows is not None:
            part.rows.remove([removed[at][0] for at in part.at])
    for name in {label for _, label in removed} - set(kept.names):
        kept.validators.forget(name)


@dataclass(frozen=True, eq=False)
class _Part:
    """Images of one side, by position in a block."""

    gram: Gram
    rows: KeptRows | None
    at: Ints


def _parts(kept: Kept, validates: Sequence[bool]) -> Iterator[_Part]:
    mask = np.asarray(validates, dtype=bool)
    for gram, rows, at in (
        (kept.taught, kept.teaching, np.flatnonzero(~mask)),
        (kept.judging, kept.validating, np.flatnonzero(mask)),
    ):
        if len(at):
            yield _Part(gram, rows, at)


def _taken(rows: Float32, at: Ints) -> Float32:
    return rows if len(at) == len(rows) else rows[at]


def _scaling(source: RowSource) -> tuple[Scaling, float]:
    """And the variance of standardised rows, summed over columns."""
    rows = source.read(evenly(len(source), SCALING_ROWS))
    scaling = Scaling.of(rows)
    return scaling, total_variance(scaling.apply(rows[:: max(1, len(rows) // VARIANCE_ROWS)]))


def _weights(labels: Sequence[str]) -> dict[str, float]:
    counts = Counter(labels)
    largest = max(counts.values())
    return {name: class_weight(count, largest) for name, count in counts.items()}
