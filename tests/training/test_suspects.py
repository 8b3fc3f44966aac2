"""Which images are called mislabelled: the planted ones, and none where nothing can be known."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tlserve.core.types import Probabilities
from tlserve.training.arrays import Ints
from tlserve.training.suspects import by_suspicion, likely_mislabelled

NAMES = tuple(f"digit {n}" for n in range(10))
Planted = tuple[Probabilities, Ints, set[int]]


@pytest.fixture(scope="module")
def planted() -> Planted:
    """Digits of which 5 % bear another label, answered out of fold by fits that learnt from these too."""
    rows, truth = load_digits(return_X_y=True)
    random = np.random.default_rng(0)
    wrong = random.choice(len(truth), round(0.05 * len(truth)), replace=False)
    targets = truth.copy()
    targets[wrong] = (truth[wrong] + random.integers(1, 10, len(wrong))) % 10
    fit = make_pipeline(StandardScaler(), LogisticRegression(C=0.02, max_iter=500))
    answers = cross_val_predict(fit, rows, targets, cv=5, method="predict_proba")
    return answers.astype(np.float32), targets, set(wrong.tolist())


def test_most_of_the_most_suspicious_are_planted_errors(planted: Planted) -> None:
    probabilities, targets, wrong = planted
    first = by_suspicion(probabilities, targets)[: len(wrong)]
    assert len(wrong & set(first.tolist())) >= 0.7 * len(wrong)


def test_those_called_mislabelled_are_about_as_many_as_were_planted(planted: Planted) -> None:
    probabilities, targets, wrong = planted
    found = likely_mislabelled(probabilities, targets, NAMES)
    assert 0.5 * len(wrong) < len(found) < 1.5 * len(wrong)
    assert len([one for one in found if one.position in wrong]) >= 0.7 * len(found)


def test_the_suggestion_is_what_the_image_shows(planted: Planted) -> None:
    probabilities, targets, wrong = planted
    truth = load_digits(return_X_y=True)[1]
    found = [one for one in likely_mislabelled(probabilities, targets, NAMES) if one.position in wrong]
    right = [one.suggested == NAMES[truth[one.position]] for one in found]
    assert np.mean(right) > 0.9
    assert all(one.given == NAMES[targets[one.position]] for one in found)
    assert all(one.suggested_probability > one.given_probability for one in found)


def test_the_most_suspicious_come_first(planted: Planted) -> None:
    probabilities, targets, _ = planted
    found = likely_mislabelled(probabilities, targets, NAMES)
    own = [one.given_probability for one in found]
    assert own == sorted(own)
    assert likely_mislabelled(probabilities, targets, NAMES, most=5) == found[:5]


def test_labels_that_the_model_agrees_with_are_left_alone() -> None:
    sure = np.full((40, 2), 0.1, dtype=np.float32)
    targets = np.arange(40) % 2
    sure[np.arange(40), targets] = 0.9
    assert likely_mislabelled(sure, targets, ("a", "b")) == []


def test_a_low_rank_alone_makes_no_suspect() -> None:
    """The model is hardly ever sure of c; its answers there are right all the same."""
    targets = np.repeat([0, 1, 2], 20)
    probabilities = np.full((60, 3), 0.01, dtype=np.float32)
    probabilities[np.arange(60), targets] = 0.98
    probabilities[targets == 2] = (0.33, 0.32, 0.35)
    probabilities[0] = (0.36, 0.10, 0.54)
    found = likely_mislabelled(probabilities, targets, ("a", "b", "c"))
    assert [(one.position, one.suggested) for one in found] == [(0, "c")]
    assert by_suspicion(probabilities, targets)[0] != 0


@pytest.mark.parametrize("targets", [[], [1], [1, 1, 1]])
def test_without_two_classes_nobody_is_suspected(targets: list[int]) -> None:
    probabilities = np.full((len(targets), 3), 1 / 3, dtype=np.float32)
    of_each = np.array(targets, dtype=np.intp)
    assert likely_mislabelled(probabilities, of_each, ("a", "b", "c")) == []
    assert sorted(by_suspicion(probabilities, of_each)) == list(range(len(targets)))


def test_classes_without_images_do_no_harm() -> None:
    probabilities = np.array(
        [[0.9, 0, 0, 0.1], [0.1, 0, 0, 0.9], [0.8, 0.1, 0, 0.1], [1, 0, 0, 0]], np.float32
    )
    targets = np.array([0, 3, 0, 3])
    assert [one.position for one in likely_mislabelled(probabilities, targets, ("a", "b", "c", "d"))] == [3]


def test_cleanlab_is_imported_by_those_who_ask_only() -> None:
    code = "import sys, tlserve.training.suspects; sys.exit('cleanlab' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
