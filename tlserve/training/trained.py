"""What training gives: the head, how it came about, and what it said of images it had not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tlserve.core.head import Head
from tlserve.core.plan import HeadKind
from tlserve.core.types import Probabilities
from tlserve.training.arrays import Ints


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Calibrated answers for training images by fits that had not seen them.

    images: (n,) positions among the training images, ascending; all of them where folds were cheap, else a
    stratified sample. probabilities: (n, n_classes) float32, in the order of the head's labels.
    targets: (n,) their classes.
    """

    images: Ints
    probabilities: Probabilities
    targets: Ints

    @property
    def accuracy(self) -> float:
        return float((self.probabilities.argmax(axis=1) == self.targets).mean())


@dataclass(frozen=True, eq=False)
class TrainedHead:
    """A head and how it came about; the report is ready for JSON."""

    head: Head
    kind: HeadKind
    report: dict[str, Any]
    out_of_fold: OutOfFold
