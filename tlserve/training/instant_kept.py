"""What an `InstantState` holds between two fits."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tlserve.core.plan import HeadKind
from tlserve.training.arrays import Float32, Float64, Ints
from tlserve.training.gram import Gram
from tlserve.training.kept import KeptRows
from tlserve.training.lesson import Lesson
from tlserve.training.scaling import Scaling
from tlserve.training.validating import Validators

OUTGROWN = 1.25
"""Times the columns: from so many images on, sums of products are cheaper than rows."""


@dataclass(frozen=True, eq=False)
class Start:
    """Where the next fit of a kind begins: what this one found on the teaching images alone.

    It has seen no validating image, so neither has what begins there.
    """

    names: tuple[str, ...]
    parameters: Float64
    """(n_classes, n_features + 1), on standardised rows."""

    def on(self, names: tuple[str, ...]) -> Float64:
        """Of these classes; zeros for those that are new."""
        found = np.zeros((len(names), self.parameters.shape[1]))
        index = {name: at for at, name in enumerate(self.names)}
        for at, name in enumerate(names):
            if name in index:
                found[at] = self.parameters[index[name]]
        return found


@dataclass(eq=False)
class Kept:
    """Two parts of the training images, in products and rows, and what earlier fits found."""

    scaling: Scaling
    taps: tuple[str, ...]
    variance: float
    """Of standardised rows, summed over columns: what the penalty is measured by."""
    validators: Validators
    taught: Gram
    """Of the teaching images."""
    judging: Gram
    """Of the validating images, for the last solve."""
    validating: KeptRows
    teaching: KeptRows | None
    """None where there are too many."""
    seed: int = 0
    step: int | None = None
    """Of the penalty's grid, as the fit before found best."""
    n_changed: int = 0
    """Images since the penalty was chosen."""
    starts: dict[HeadKind, Start] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted({*self.taught.counts, *self.judging.counts}))

    @property
    def n_images(self) -> int:
        return self.taught.n_rows + self.judging.n_rows

    @property
    def nbytes(self) -> int:
        rows = self.validating.nbytes + (self.teaching.nbytes if self.teaching is not None else 0)
        starts = sum(start.parameters.nbytes for start in self.starts.values())
        return self.taught.nbytes + self.judging.nbytes + rows + starts

    @property
    def is_by_rows(self) -> bool:
        """Whether there are no products, as images are fewer than columns."""
        return not len(self.taught.matrix)

    @property
    def is_stale(self) -> bool:
        """As `InstantState.is_stale`: also where rows outgrew their columns, or few are left to validate."""
        width = len(self.scaling.mean)
        outgrown = self.is_by_rows and self.n_images > OUTGROWN * width
        few = len(self.validating) < self.validators.share * self.n_images / 2
        return self.taught.is_stale or outgrown or few

    def lesson(self, names: tuple[str, ...], *, everything: bool) -> Lesson:
        """The teaching rows; with `everything`, the validating ones behind. Teaching rows that are not in
        memory are left out."""
        both = (self.teaching, self.validating if everything else None)
        parts = [part for part in both if part is not None]
        rows: Float32 = parts[0].rows if len(parts) == 1 else np.concatenate([part.rows for part in parts])
        targets: Ints = np.concatenate([part.targets(names) for part in parts])
        weights = np.array([self.weight_of(name) for name in names], np.float32)
        return Lesson(rows, targets, weights[targets], len(names))

    def weight_of(self, name: str) -> float:
        return self.taught.weights[name] if name in self.taught.weights else self.judging.weights[name]
