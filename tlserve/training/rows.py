"""Rows that are read when they are needed: what training asks of a cache that does not fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tlserve.training.arrays import Float32, Ints
from tlserve.training.linear import TrainingCancelled

BLOCK_BYTES = 32 * 2**20
"""Of float32 rows that are in memory at a time."""


class RowSource(Protocol):
    """Rows by their place. What a place means the caller says: the n-th of a list of images, say."""

    @property
    def n_features(self) -> int:
        """The width of a row."""

    def __len__(self) -> int: ...

    def read(self, places: Ints | slice) -> Float32:
        """The rows at these places, in this order: (n, n_features) float32, raw.

        places: positions in [0, len), or a slice of them with a step of 1. The block may be a view; nobody
        writes into it.
        """


@dataclass(frozen=True, eq=False)
class ArrayRows:
    """Rows of an array in memory or of a mapped file: (n, n_features), float32 or float16."""

    rows: npt.NDArray[Any]

    @property
    def n_features(self) -> int:
        return int(self.rows.shape[1])

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, places: Ints | slice) -> Float32:
        return np.asarray(self.rows[places], dtype=np.float32)


def rows_at_once(n_features: int) -> int:
    """How many rows make a block."""
    return max(256, BLOCK_BYTES // (4 * n_features))


def blocks(
    source: RowSource, *, cancelled: Callable[[], bool] | None = None
) -> Iterator[tuple[slice, Float32]]:
    """All rows in order, a block at a time, each with its places. Raises TrainingCancelled."""
    step = rows_at_once(source.n_features)
    for begin in range(0, len(source), step):
        if cancelled is not None and cancelled():
            raise TrainingCancelled
        at = slice(begin, min(begin + step, len(source)))
        yield at, source.read(at)


def evenly(n_rows: int, most: int) -> Ints | slice:
    """The places of all rows, or of `most` of them, evenly spaced."""
    if n_rows <= most:
        return slice(0, n_rows)
    return np.linspace(0, n_rows - 1, most).astype(np.intp)
