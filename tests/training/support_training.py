"""Rows whose answer is known: digits, and rows that say nothing."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from tlserve.core.head import apply
from tlserve.core.plan import HeadKind
from tlserve.training import Examples, TrainedHead
from tlserve.training.compare import Entry
from tlserve.training.fit import METHODS
from tlserve.training.search import Attempt, Trial

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


def entry(kind: HeadKind, n_wrong: int, *, first: int = 0, confidence: float = 3.0, n: int = 200) -> Entry:
    """A kind that took n_wrong of n images, from `first` on, for the other class."""
    logits = np.tile(np.array([[confidence, 0.0]], np.float32), (n, 1))
    logits[first : first + n_wrong] = logits[first : first + n_wrong, ::-1]
    trial = Trial.of(1.0, logits, np.zeros(n, dtype=np.intp), link="softmax", usual=1.0)
    method = next(method for method in METHODS if method.kind is kind)
    return Entry(kind, method, Attempt(kind, "softmax", "C", trial, (trial,)))
