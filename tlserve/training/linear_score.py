"""How well a linear model separates the classes by sets of columns: ridge in closed form, cross-validated.

One Gram matrix serves every set, fold and penalty: a fold is left out by subtracting its own. Columns that
nest (a tap, then the tap before it beside it, ...) share one Cholesky factor, because the factor of a leading
block is the leading block of the factor. So nine sets of 1,600 columns cost about as much as the widest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cholesky, solve_triangular

from tlserve.training.arrays import Float32, Ints

Bools = npt.NDArray[np.bool_]

PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Of the squared weights, in units of the training rows; columns have unit spread."""
AFFORDABLE_FLOPS = 1e11
"""For every penalty on every fold; some 3 s on one core."""
_NO_SHARE = 1e-12


@dataclass(frozen=True, eq=False)
class Chain:
    """Sets that nest: the first `end` of `columns`, for each of `ends`."""

    columns: Ints
    ends: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Cut:
    """Rows in folds.

    rows: (n, n_features) float32, standardised. indicators: (n, n_classes) float32, one-hot.
    fold_of: (n,) in [0, n_folds). affordable_flops: above it, the first fold alone chooses the penalty.
    """

    rows: Float32
    indicators: Float32
    fold_of: Ints
    n_folds: int
    affordable_flops: float = AFFORDABLE_FLOPS

    def hits(self, chains: Sequence[Chain], check: Callable[[], None]) -> Bools:
        """Which rows are answered rightly when held out: (2, n_sets, n), sets in the order of the chains.

        First by the highest score, then by the score that rises most above the share of its class, which
        counts every class alike. Each has the penalty that does best on the folds, the larger one where two
        do equally well. `check` is called before each fold and may raise.
        """
        widest = max(len(chain.columns) for chain in chains)
        dear = self.n_folds * len(PENALTIES) * widest**3 / 3 > self.affordable_flops
        n_sets = sum(len(chain.ends) for chain in chains)
        tried = np.zeros((len(PENALTIES), 2, n_sets, len(self.rows)), dtype=bool)
        best: Ints | None = None
        for held in self._held(check):
            for penalty in range(len(PENALTIES)) if best is None else np.unique(best):
                tried[penalty][..., held.at] = held.hits(chains, PENALTIES[penalty])
            if dear and best is None:
                best = _best(tried[..., held.at], self.row_weights[:, held.at])
        if best is None:
            best = _best(tried, self.row_weights)
        return np.asarray(np.take_along_axis(tried, best[None, :, :, None], axis=0)[0])

    @property
    def row_weights(self) -> Float32:
        """(2, n) float32: what a row counts for in each of the two; the second makes all classes equal."""
        evened = (self.indicators / np.maximum(self.indicators.sum(axis=0), 1)).sum(axis=1)
        return np.stack([np.ones_like(evened), evened])

    def _held(self, check: Callable[[], None]) -> Iterator[_Held]:
        check()
        total = _Sums.of(self.rows, self.indicators)
        for fold in range(self.n_folds):
            check()
            at = np.flatnonzero(self.fold_of == fold)
            if len(at):
                rows, indicators = self.rows[at], self.indicators[at]
                yield _Held(at, rows, indicators.argmax(axis=1), total.without(_Sums.of(rows, indicators)))


@dataclass(frozen=True, eq=False)
class _Sums:
    """What ridge needs to know of some rows."""

    n_rows: int
    row: Float32
    indicator: Float32
    gram: Float32
    cross: Float32

    @classmethod
    def of(cls, rows: Float32, indicators: Float32) -> _Sums:
        return cls(len(rows), rows.sum(axis=0), indicators.sum(axis=0), rows.T @ rows, rows.T @ indicators)

    def without(self, other: _Sums) -> _Sums:
        """The other rows' sums taken away, and what is left centred: `row` and `indicator` are means."""
        n_rows = self.n_rows - other.n_rows
        row = (self.row - other.row) / np.float32(n_rows)
        indicator = (self.indicator - other.indicator) / np.float32(n_rows)
        gram = self.gram - other.gram
        gram -= np.outer(row, row) * np.float32(n_rows)
        cross = self.cross - other.cross
        cross -= np.outer(row, indicator) * np.float32(n_rows)
        return _Sums(n_rows, row, indicator, gram, cross)


@dataclass(frozen=True, eq=False)
class _Held:
    """One fold held out. at, rows, targets: of its rows. learnt: centred sums of all others."""

    at: Ints
    rows: Float32
    targets: Ints
    learnt: _Sums

    def hits(self, chains: Sequence[Chain], penalty: float) -> Bools:
        """(2, n_sets, n_held)."""
        return np.concatenate([self._hits(chain, penalty) for chain in chains], axis=1)

    def _hits(self, chain: Chain, penalty: float) -> Bools:
        columns = chain.columns
        gram = self.learnt.gram[np.ix_(columns, columns)]
        gram[np.diag_indices_from(gram)] += np.float32(penalty * self.learnt.n_rows)
        factor = cholesky(gram, lower=True, overwrite_a=True, check_finite=False)
        half = solve_triangular(factor, self.learnt.cross[columns], lower=True, check_finite=False)
        rows = self.rows[:, columns] - self.learnt.row[columns]
        share = self.learnt.indicator
        found = []
        for end in chain.ends:
            weights = solve_triangular(
                factor[:end, :end], half[:end], lower=True, trans="T", check_finite=False
            )
            rise = rows[:, :end] @ weights
            relative = np.where(share > 0, rise / np.maximum(share, _NO_SHARE), -np.inf)
            answers = np.stack([(rise + share).argmax(axis=1), relative.argmax(axis=1)])
            found.append(answers == self.targets)
        return np.stack(found, axis=1)


def _best(tried: Bools, row_weights: Float32) -> Ints:
    """(n_penalties, 2, n_sets, n) to (2, n_sets): the best penalty, the largest of equals."""
    shares = (tried * row_weights[:, None, :]).sum(axis=3, dtype=np.float64).round(9)
    backwards = shares[::-1].argmax(axis=0)
    return np.asarray(len(tried) - 1 - backwards, dtype=np.intp)
