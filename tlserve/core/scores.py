"""How good a version's answers are, in the numbers of a report: by class, by confidence, and image by image.

Pure functions of truth and probabilities: of held-out images, or of training images answered by fits that had
not seen them. What cannot be said is None, never a made-up zero; `dataclasses.asdict` gives JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tlserve.core.judge import Answers, Columns, columns_of, wilson_interval

N_BINS = 15
MOST_CLASSES_IN_MATRIX = 100
CONFUSIONS_TOLD = 20
LEAST_PROBABILITY = 1e-12
DRAWS = 200
MOST_DRAWN = 4_000_000
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ClassScores:
    """One class against all others. Shares lie in [0, 1]."""

    label: str
    support: int
    """Images of it."""
    precision: float | None
    """Of the images called so, the share that is; None when none was."""
    recall: float | None
    """Of its images, the share called so; None without images."""
    f1: float | None
    """Harmonic mean of both; None without images of it and answers of it."""


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The images answered with a confidence of at least `lower` and less than `upper` (1 is in the last)."""

    lower: float
    upper: float
    count: int
    confidence: float | None
    """Mean; None in an empty bin, like the others."""
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None


@dataclass(frozen=True, slots=True)
class Confused:
    """Images of the class `label` that were called `answer`."""

    label: str
    answer: str
    count: int


@dataclass(frozen=True, slots=True)
class Scores:
    """All of it. Of images whose class the head does not know only the number is told."""

    n_images: int
    n_unknown_class: int
    """Left out of everything else."""
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    """95 % interval (Wilson)."""
    macro_f1: float | None
    """Mean over the classes that have images or answers."""
    nll: float | None
    """Mean negative log of the true class's probability, in nats."""
    brier: float | None
    """Mean squared error of the probabilities, summed over classes: 0 to 2."""
    ece: float | None
    """Expected calibration error over the bins of `reliability`."""
    ece_by_chance: float | None
    """The ECE that a perfectly calibrated model would show on as many images, with these confidences."""
    labels: tuple[str, ...]
    classes: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...] | None
    """[true class][answer], in the order of `labels`; None above 100 classes."""
    confused: tuple[Confused, ...]
    """The commonest mistakes, up to 20."""
    reliability: tuple[ReliabilityBin, ...]


@dataclass(frozen=True, slots=True)
class HardImage:
    """An image to whose own class the model gave little."""

    position: int
    """Among the images that were scored."""
    label: str
    answer: str
    probability: float
    """Of its own class."""
    confidence: float
    """Of the answer."""


def score(truth: Sequence[str], answers: Answers) -> Scores:
    """Score answers, row by row, against the label of each image. Raises ValueError for unequal lengths."""
    return score_columns(columns_of(truth, answers.labels), answers)


def score_columns(columns: Columns, answers: Answers) -> Scores:
    """The same, where the columns of the true classes are known: (n_images,), -1 for a class unknown."""
    if len(columns) != len(answers.probabilities):
        raise ValueError(f"{len(columns)} images, but {len(answers.probabilities)} answers")
    known = columns >= 0
    true, probabilities = columns[known], answers.probabilities[known].astype(np.float64)
    n_images, labels = len(true), answers.labels
    confusion = np.zeros((len(labels), len(labels)), dtype=np.intp)
    np.add.at(confusion, (true, probabilities.argmax(axis=1)), 1)
    classes = _by_class(labels, confusion)
    f1s = [one.f1 for one in classes if one.f1 is not None]
    return Scores(
        n_images=n_images,
        n_unknown_class=len(columns) - n_images,
        **_overall(true, probabilities),
        macro_f1=float(np.mean(f1s)) if f1s else None,
        labels=labels,
        classes=classes,
        confusion=(
            tuple(tuple(row) for row in confusion.tolist()) if len(labels) <= MOST_CLASSES_IN_MATRIX else None
        ),
        confused=_confused(labels, confusion),
        reliability=reliability(true, probabilities),
    )


def reliability(true: Columns, probabilities: Floats) -> tuple[ReliabilityBin, ...]:
    """The reliability diagram: 15 bins of equal width. true: (n,) columns; probabilities: (n, n_classes)."""
    confidence, right = _confidence_and_hits(true, probabilities)
    bins = _bins(confidence)
    return tuple(
        _bin(number, confidence[bins == number], int(right[bins == number].sum())) for number in range(N_BINS)
    )


def expected_calibration_error(true: Columns, probabilities: Floats) -> float:
    """How far confidence lies from accuracy, mean over images of their bin's gap: in [0, 1].

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks".
    """
    confidence, right = _confidence_and_hits(true, probabilities)
    return _gap(_bins(confidence), confidence - right)


def calibration_error_by_chance(probabilities: Floats, *, seed: int = 0) -> float:
    """The mean ECE of a perfectly calibrated model with these confidences: chance alone makes some gap.

    Each image is right with a probability of just its confidence, in up to 200 simulated rounds.
    """
    confidence = probabilities.max(axis=1)
    bins, random = _bins(confidence), np.random.default_rng(seed)
    n_draws = int(np.clip(MOST_DRAWN // max(1, len(confidence)), 5, DRAWS))
    gaps = [_gap(bins, confidence - (random.random(len(confidence)) < confidence)) for _ in range(n_draws)]
    return float(np.mean(gaps))


def hardest(columns: Columns, answers: Answers, most: int) -> tuple[HardImage, ...]:
    """The images whose own class got the lowest probability, lowest first; unknown classes left out."""
    known = np.flatnonzero(columns >= 0)
    own = answers.probabilities[known, columns[known]]
    chosen = known[np.argsort(own, kind="stable")[:most]]
    best = answers.probabilities[chosen].argmax(axis=1)
    return tuple(
        HardImage(
            position=int(position),
            label=answers.labels[columns[position]],
            answer=answers.labels[column],
            probability=float(answers.probabilities[position, columns[position]]),
            confidence=float(answers.probabilities[position, column]),
        )
        for position, column in zip(chosen, best, strict=True)
    )


def _overall(true: Columns, probabilities: Floats) -> dict[str, float | None]:
    n_images = len(true)
    if not n_images:
        return dict.fromkeys(_OF_ALL_IMAGES)
    n_right = int((probabilities.argmax(axis=1) == true).sum())
    low, high = wilson_interval(n_right, n_images)
    own = probabilities[np.arange(n_images), true]
    squares = (probabilities**2).sum(axis=1) - 2 * own + 1
    return {
        "accuracy": n_right / n_images,
        "accuracy_low": low,
        "accuracy_high": high,
        "nll": float(-np.log(np.maximum(own, LEAST_PROBABILITY)).mean()),
        "brier": float(squares.mean()),
        "ece": expected_calibration_error(true, probabilities),
        "ece_by_chance": calibration_error_by_chance(probabilities),
    }


_OF_ALL_IMAGES = ("accuracy", "accuracy_low", "accuracy_high", "nll", "brier", "ece", "ece_by_chance")


def _by_class(labels: Sequence[str], confusion: npt.NDArray[np.intp]) -> tuple[ClassScores, ...]:
    rows = zip(
        labels,
        confusion.diagonal().tolist(),
        confusion.sum(1).tolist(),
        confusion.sum(0).tolist(),
        strict=True,
    )
    return tuple(
        ClassScores(
            label=label,
            support=support,
            precision=right / called if called else None,
            recall=right / support if support else None,
            f1=2 * right / (called + support) if called + support else None,
        )
        for label, right, support, called in rows
    )


def _confused(labels: Sequence[str], confusion: npt.NDArray[np.intp]) -> tuple[Confused, ...]:
    mistakes = confusion.copy()
    np.fill_diagonal(mistakes, 0)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:CONFUSIONS_TOLD]
    pairs = zip(*np.unravel_index(order, mistakes.shape), strict=True)
    return tuple(
        Confused(labels[true], labels[answer], int(mistakes[true, answer]))
        for true, answer in pairs
        if mistakes[true, answer]
    )


def _confidence_and_hits(true: Columns, probabilities: Floats) -> tuple[Floats, Floats]:
    return probabilities.max(axis=1), (probabilities.argmax(axis=1) == true).astype(np.float64)


def _bins(confidence: Floats) -> npt.NDArray[np.intp]:
    return np.minimum((confidence * N_BINS).astype(np.intp), N_BINS - 1)


def _gap(bins: npt.NDArray[np.intp], excess: Floats) -> float:
    return float(np.abs(np.bincount(bins, weights=excess, minlength=N_BINS)).sum() / len(bins))


def _bin(number: int, confidence: Floats, n_right: int) -> ReliabilityBin:
    count = len(confidence)
    low, high = wilson_interval(n_right, count) if count else (None, None)
    return ReliabilityBin(
        lower=number / N_BINS,
        upper=(number + 1) / N_BINS,
        count=count,
        confidence=float(confidence.mean()) if count else None,
        accuracy=n_right / count if count else None,
        accuracy_low=low,
        accuracy_high=high,
    )
