"""Sums of products of rows, from which a ridge head follows exactly, whatever the number of images.

Adding, removing or relabelling images costs by the images that change. Rounding adds up over updates, and
class weights are those of the day it was built, so it is rebuilt from the rows once much has changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tlserve.training.arrays import Float32, Float64, Ints
from tlserve.training.scaling import Scaling

EXACT_ROWS = 1_024
"""So many rows at a time are multiplied in float64; more of them, at a build, in float32 by blocks."""
MOST_CHANGED = 0.25
"""Rows added and removed since it was built, over those it was built from."""
FEWEST_CHANGED = 64
WEIGHT_DRIFT = 1.5
"""How far, as a ratio, a class weight may be from what the counts of today would give."""
EVEN = 3.0
"""Classes up to this much smaller than the largest count as they are."""
HEAVIEST = 10.0


def class_weight(count: int, largest: int) -> float:
    """How much an image counts whose class has `count` images beside a largest of `largest`: 1 to 10.

    A class up to 3 times smaller than the largest counts as it is; a smaller one is raised to a third of
    the largest, at most tenfold. So there is no jump at the ratio of 3, and no single image rules.
    """
    return float(np.clip(largest / max(count, 1) / EVEN, 1, HEAVIEST))


class Gram:
    """Weighted products of standardised, bordered rows: with each other and with the indicators of classes.

    Rows are standardised by a scaling that is fixed when it is built, and get a last column of ones.
    `matrix`: (n_features + 1, n_features + 1) float64; `cross(names)`: (n_features + 1, n_classes).
    Weights of classes are given at first sight of the class and then stay.
    """

    def __init__(
        self, scaling: Scaling, weights: Mapping[str, float] | None = None, *, only_counts: bool = False
    ) -> None:
        """Of no rows. weights: of the classes that are known beforehand. only_counts: keep track of classes,
        but of no products: for rows that are fewer than their columns, and in memory anyway."""
        width = 0 if only_counts else len(scaling.mean) + 1
        self.scaling = scaling
        self.matrix: Float64 = np.zeros((width, width))
        self.weights: dict[str, float] = dict(weights or {})
        self.counts: Counter[str] = Counter()
        self._columns: dict[str, Float64] = {}
        self._only_counts = only_counts
        self._n_built = 0
        self._n_changed = 0

    @classmethod
    def rebuilt(
        cls,
        scaling: Scaling,
        blocks: Iterable[tuple[Float32, Sequence[str]]],
        weights: Mapping[str, float],
    ) -> Gram:
        """From all rows, raw, a block at a time, each with its labels."""
        gram = cls(scaling, weights)
        for rows, labels in blocks:
            gram.add(rows, labels)
        gram.settle()
        return gram

    @property
    def names(self) -> tuple[str, ...]:
        """The classes that have rows, sorted."""
        return tuple(sorted(self.counts))

    @property
    def n_rows(self) -> int:
        return self.counts.total()

    @property
    def nbytes(self) -> int:
        return int(self.matrix.nbytes) + sum(column.nbytes for column in self._columns.values())

    @property
    def is_stale(self) -> bool:
        """Whether so much was added and removed, or classes grew or shrank so much, since it was built that
        it should be built anew. It is good to use all the same."""
        if self._n_changed > max(FEWEST_CHANGED, MOST_CHANGED * self._n_built):
            return True
        largest = max(self.counts.values(), default=1)
        drifts = [class_weight(self.counts[name], largest) / self.weights[name] for name in self.counts]
        return any(not 1 / WEIGHT_DRIFT <= drift <= WEIGHT_DRIFT for drift in drifts)

    def settle(self) -> None:
        """What is in it now is what it was built from: drift counts from here."""
        self._n_built, self._n_changed = self.n_rows, 0

    def add(self, rows: Float32, labels: Sequence[str], *, standardised: bool = False) -> None:
        """rows: (n, n_features) raw, unless they are standardised already; labels: one each.

        A class that is new here is weighed by what it has.
        """
        counts = Counter(labels)
        largest = max((self.counts + counts).values(), default=1)
        for name, count in counts.items():
            self.weights.setdefault(name, class_weight(count, largest))
        self._apply(rows if standardised else self.scaling.apply(rows), labels, 1.0)
        self.counts.update(counts)

    def remove(self, rows: Float32, labels: Sequence[str]) -> None:
        """The inverse of `add`, for raw rows.

        Raises ValueError, and changes nothing, for more of a class than there is.
        """
        counts = Counter(labels)
        short = [name for name, count in counts.items() if count > self.counts[name]]
        if short:
            raise ValueError(f"there are not so many rows of {short[0]!r} to take away")
        self._apply(self.scaling.apply(rows), labels, -1.0)
        self.counts.subtract(counts)
        for name in counts:
            if not self.counts[name]:
                del self.counts[name]
                self._columns.pop(name, None)
        if not self.counts:
            self.matrix[:] = 0

    def cross(self, names: Sequence[str]) -> Float64:
        """(n_features + 1, n_classes): weighted sums of the bordered rows of these classes; zeros without."""
        found = np.zeros((len(self.matrix), len(names)))
        for at, name in enumerate(names):
            if name in self._columns:
                found[:, at] = self._columns[name]
        return found

    def _apply(self, standardised: Float32, labels: Sequence[str], sign: float) -> None:
        """Products of all rows, added or taken away."""
        self._n_changed += len(labels)
        if self._only_counts or not labels:
            return
        names = sorted(set(labels))
        index = {name: at for at, name in enumerate(names)}
        targets = np.fromiter((index[label] for label in labels), dtype=np.intp, count=len(labels))
        weights = np.array([self.weights[name] for name in names])
        single = len(labels) > EXACT_ROWS
        bordered = _bordered(standardised, np.float32 if single else np.float64)
        cross = _by_class(bordered, targets, len(names)) * weights
        if (weights != 1).any():
            bordered *= np.sqrt(weights)[targets].astype(bordered.dtype)[:, None]
        # One and the same array on both sides: numpy then computes one half only.
        products = bordered.T @ bordered
        (np.add if sign > 0 else np.subtract)(self.matrix, products, out=self.matrix)
        for at, name in enumerate(names):
            column = self._columns.get(name)
            self._columns[name] = sign * cross[:, at] + (0 if column is None else column)


def _bordered(rows: Float32, kind: type[np.float32] | type[np.float64]) -> Float32 | Float64:
    """A copy with a last column of ones."""
    found = np.empty((len(rows), rows.shape[1] + 1), kind)
    found[:, :-1] = rows
    found[:, -1] = 1
    return found


def _by_class(bordered: Float32 | Float64, targets: Ints, n_classes: int) -> Float64:
    """(n_columns, n_classes) sums of rows by class."""
    indicators = np.zeros((len(targets), n_classes), bordered.dtype)
    indicators[np.arange(len(targets)), targets] = 1
    return np.asarray(bordered.T @ indicators, dtype=np.float64)
