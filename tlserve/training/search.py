"""One number of a kind of head, chosen by cross-validation inside the training rows: a climb along a grid.

The climb ends at the first step that is worse: the weakest penalties, which take longest to fit, are rarely
tried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tlserve.core.head import Link
from tlserve.core.plan import HeadKind
from tlserve.training.arrays import Float32, Float64, Ints
from tlserve.training.calibration import Calibration, calibrate


@dataclass(frozen=True, eq=False)
class Trial:
    """What one setting gave on images that the fits had not seen."""

    setting: float
    logits: Float32
    """(n_asked, n_classes): the scores of those images."""
    accuracy: float
    calibration: Calibration
    parameters: Float64 | None = None
    """Where the last fit starts, if it has to start anywhere: the mean of the folds' fits."""

    @classmethod
    def of(
        cls,
        setting: float,
        logits: Float32,
        truth: Ints,
        *,
        link: Link,
        usual: float,
        parameters: Float64 | None = None,
    ) -> Trial:
        accuracy = float((logits.argmax(axis=1) == truth).mean())
        calibration = calibrate(logits, truth, link=link, usual=usual)
        return cls(setting, logits, accuracy, calibration, parameters)


@dataclass(frozen=True, eq=False)
class Attempt:
    """One kind of head, cross-validated: the trial that was chosen, among those that were made."""

    kind: HeadKind
    link: Link
    setting_name: str
    chosen: Trial
    tried: tuple[Trial, ...]

    @property
    def grid(self) -> list[dict[str, Any]]:
        """All trials, ready for JSON."""
        return [
            {self.setting_name: trial.setting, "accuracy": trial.accuracy, **asdict(trial.calibration)}
            for trial in self.tried
        ]


def climb(
    try_step: Callable[[int], Trial],
    n_steps: int,
    start: int,
    loss: Callable[[Trial], float],
) -> dict[int, Trial]:
    """Try steps of a grid from `start` upwards until one is worse; then downwards, if the first was best.

    Returns what was tried. The log loss of cross-validation has one valley along such a grid.
    """
    tried: dict[int, Trial] = {}
    for step in range(start, n_steps):
        tried[step] = try_step(step)
        if best_step(tried, loss) < step:
            break
    for step in range(start - 1, -1, -1):
        if best_step(tried, loss) != step + 1:
            break
        tried[step] = try_step(step)
    return tried


def best_step(tried: Mapping[int, Trial], loss: Callable[[Trial], float]) -> int:
    """The step with the lowest loss on unseen images; the lower step where two are equal."""
    return min(tried, key=lambda step: (loss(tried[step]), step))


def loss_before(trial: Trial) -> float:
    """Log loss before any temperature: for scores that are log odds.

    Accuracy is too coarse to choose by: over ten splits of the 5 flowers the step it chose was 0.53 points
    below the best one on average (0.43 on a tenth of the images), this one 0.39 (0.19); after a temperature
    0.82 (0.29).
    """
    return trial.calibration.nll_before


def loss_after(trial: Trial) -> float:
    """Log loss after the temperature: for scores of no scale of their own."""
    return trial.calibration.nll_after


def geometric(first: float, n_steps: int) -> tuple[float, ...]:
    """A grid of two steps a decade."""
    return tuple(float(first * 10 ** (step / 2)) for step in range(n_steps))


def room_for_scores(n_asked: int, n_classes: int) -> Float32:
    """Room for the scores of the images that are asked about."""
    return np.zeros((n_asked, n_classes), dtype=np.float32)
