"""Rows whose answer is known: digits, and rows that say nothing."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from tlserve.core.head import apply
from tlserve.training import Examples, TrainedHead

TAPS = ("features",)


class Digits(NamedTuple):
    """scikit-learn's digits: rows (n, 64) float32 and labels of each side."""

    train: Any
    labels: list[str]
    test: Any
    truth: list[str]

    @property
    def examples(self) -> Examples:
        return Examples.of(self.train, self.labels)


def some_digits(n_train: int = 500) -> Digits:
    rows, targets = load_digits(return_X_y=True)
    labels = [f"digit {n}" for n in targets]
    parts = train_test_split(
        rows.astype(np.float32), labels, train_size=n_train, stratify=labels, random_state=0
    )
    return Digits(parts[0], list(parts[2]), parts[1], list(parts[3]))


def noise(n: int = 160, n_features: int = 300, seed: int = 0) -> tuple[Any, list[str]]:
    """Rows that say nothing of their labels, wide enough to be learnt by heart."""
    random = np.random.default_rng(seed)
    return random.normal(size=(n, n_features)).astype(np.float32), ["ab"[i % 2] for i in range(n)]


def accuracy(trained: TrainedHead, rows: Any, truth: list[str]) -> float:
    answers = np.asarray(trained.head.labels)[apply(trained.head, rows).argmax(axis=1)]
    return float(np.mean(answers == np.asarray(truth)))
