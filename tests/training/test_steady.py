"""A cross-validated share that tells two builds of one backbone apart."""

from __future__ import annotations

import numpy as np
import pytest

from tlserve.core.types import Features
from tlserve.training import TrainingCancelled, score_taps, steady_accuracy
from tlserve.training.arrays import Ints
from tlserve.training.folds import grouped_folds
from tlserve.training.linear_score import PENALTIES
from tlserve.training.scaling import Scaling
from tlserve.training.steady import N_FOLDS, N_REPEATS

N_CLASSES = 4


@pytest.fixture(scope="module")
def clouds() -> tuple[Features, Ints]:
    """(160, 30) rows of four overlapping classes, and their classes."""
    random = np.random.default_rng(3)
    targets = np.arange(160) % N_CLASSES
    centres = random.normal(size=(N_CLASSES, 30))
    rows = centres[targets] + 4 * random.normal(size=(160, 30))
    return rows.astype(np.float32), targets


def fold_by_fold(rows: Features, targets: Ints) -> float:
    """The same by its definition: a ridge fit for every fold, every penalty and every way to deal out."""
    random = np.random.default_rng(0)
    plans = [grouped_folds(targets, None, N_FOLDS, random) for _ in range(N_REPEATS)]
    scaled = Scaling.of(rows).apply(rows).astype(np.float64)
    with_bias = np.column_stack([scaled, np.ones(len(rows))])
    indicators = np.eye(N_CLASSES)[targets]
    shares = []
    for penalty in PENALTIES:
        ridge = np.diag([penalty * len(rows)] * rows.shape[1] + [0.0])
        right = 0
        for fold_of in plans:
            for fold in range(N_FOLDS):
                seen, held = with_bias[fold_of != fold], with_bias[fold_of == fold]
                weights = np.linalg.solve(seen.T @ seen + ridge, seen.T @ indicators[fold_of != fold])
                right += int(((held @ weights).argmax(axis=1) == targets[fold_of == fold]).sum())
        shares.append(right / (N_REPEATS * len(rows)))
    return max(shares)


def test_it_is_what_a_fit_for_every_fold_gives(clouds: tuple[Features, Ints]) -> None:
    rows, targets = clouds
    assert 0.3 < fold_by_fold(rows, targets) < 0.95
    assert steady_accuracy(rows, targets, N_CLASSES) == pytest.approx(fold_by_fold(rows, targets), abs=1e-9)


def test_it_agrees_with_the_score_of_taps(clouds: tuple[Features, Ints]) -> None:
    rows, targets = clouds
    (score,) = score_taps(lambda taps: rows, ["features"], targets, N_CLASSES)
    assert steady_accuracy(rows, targets, N_CLASSES) == pytest.approx(score.accuracy, abs=0.05)


def test_near_duplicates_do_not_answer_for_each_other() -> None:
    random = np.random.default_rng(5)
    targets = np.repeat(random.integers(0, 2, 40), 2)
    rows = np.repeat(random.normal(size=(40, 200)), 2, axis=0).astype(np.float32)
    pairs = np.repeat(np.arange(40), 2)
    assert steady_accuracy(rows, targets, 2) > 0.9
    assert steady_accuracy(rows, targets, 2, groups=pairs) < 0.7


def test_it_ends_when_it_is_cancelled(clouds: tuple[Features, Ints]) -> None:
    with pytest.raises(TrainingCancelled):
        steady_accuracy(*clouds, N_CLASSES, cancelled=lambda: True)
