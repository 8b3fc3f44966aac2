"""What every kind of head is to the rest of training: cross-validate it, estimate its cost, fit it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from threadpoolctl import ThreadpoolController

from tlserve.core.head import Dense, Head, Layer, Link
from tlserve.core.plan import HeadKind
from tlserve.training.arrays import Float64
from tlserve.training.engine import Engine
from tlserve.training.lesson import Exam, Lesson
from tlserve.training.linear import TrainingCancelled
from tlserve.training.scaling import Scaling
from tlserve.training.search import Attempt

FLOPS_FOR_THREADS = 1e9
"""Below this per evaluation a second BLAS thread waits more than it works, and steals from serving."""


@dataclass(frozen=True, eq=False)
class Workplace:
    """What a method works with."""

    engine: Engine
    seed: int = 0
    tell: Callable[[], None] = lambda: None
    """Called after each trial."""
    cancelled: Callable[[], bool] | None = None

    def check(self) -> None:
        """Raises TrainingCancelled."""
        if self.cancelled is not None and self.cancelled():
            raise TrainingCancelled


@dataclass(frozen=True, eq=False)
class Older:
    """The head before this one, where fits may start."""

    head: Head
    names: tuple[str, ...]
    """The classes of the new head."""
    taps: tuple[str, ...]

    def parameters(self, link: Link, scaling: Scaling, otherwise: Float64) -> Float64 | None:
        """Its parameters on standardised rows, classes it lacks as in `otherwise`: (n_classes,
        n_features + 1). None if it is of another form."""
        n_features = otherwise.shape[1] - 1
        if self.head.link != link or (self.head.taps, self.head.n_features) != (self.taps, n_features):
            return None
        (layer, *more) = self.head.layers
        if more or not isinstance(layer, Dense):
            return None
        theirs, start = scaling.unfold(layer), otherwise.copy()
        for position, name in enumerate(self.names):
            if name in self.head.labels:
                start[position] = theirs[self.head.labels.index(name)]
        return start


@dataclass(frozen=True, eq=False)
class LastFit:
    """What a method fitted on everything."""

    layers: tuple[Layer, ...]
    """They read raw rows."""
    warm: bool = False
    """Whether it began at the head before this one."""


class Method(Protocol):
    """One kind of head."""

    @property
    def kind(self) -> HeadKind: ...

    @property
    def described(self) -> str:
        """How it is trained, in a few words."""

    @property
    def most_trials(self) -> int:
        """The trials that `examine` makes at most."""

    @property
    def fewest_images(self) -> int:
        """From how many on it is worth comparing."""

    @property
    def is_quick_on_cpu(self) -> bool:
        """Whether a drop, which is learnt with the head that was chosen, goes live soon without a GPU."""

    def flops(self, exam: Exam, lesson: Lesson) -> float:
        """What `examine` and `fit` cost about."""

    def examine(self, exam: Exam, place: Workplace) -> Attempt:
        """Cross-validate. Raises TrainingCancelled."""

    def fit(
        self, lesson: Lesson, attempt: Attempt, scaling: Scaling, place: Workplace, older: Older | None
    ) -> LastFit:
        """Fit on everything as `attempt` found best; `scaling` is what the lesson's rows were made with.

        Raises TrainingCancelled.
        """


def blas_threads(flops: float) -> AbstractContextManager[object]:
    """One thread only where an evaluation is small."""
    if flops >= FLOPS_FOR_THREADS:
        return nullcontext()
    limits: AbstractContextManager[object] = _blas().limit(limits=1, user_api="blas")
    return limits


@cache
def _blas() -> ThreadpoolController:
    """Found once: looking through all loaded libraries takes milliseconds, as long as a small fit."""
    return ThreadpoolController()
