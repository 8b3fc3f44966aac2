"""Accuracy against the number of images: as scikit-learn would measure it, and read with care."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import train_test_split

from tlserve.training.examples import Examples
from tlserve.training.learning_curve import LearningCurve, learning_curve
from tlserve.training.linear import TrainingCancelled
from tlserve.training.power_law import gain_of_doubling

Digits = tuple[Examples, Any, Any]


@pytest.fixture(scope="module")
def digits() -> Digits:
    """Examples, held-out rows, held-out targets."""
    rows, targets = load_digits(return_X_y=True)
    rows = rows[:, rows.std(axis=0) > 0.5].astype(np.float32)
    split = train_test_split(rows, targets, test_size=0.3, stratify=targets, random_state=0)
    return Examples.of(split[0], [str(n) for n in split[2]]), split[1], split[3]


@pytest.fixture(scope="module")
def curve(digits: Digits) -> LearningCurve:
    return learning_curve(*digits)


def clouds(n_images: int, n_classes: int, *, spread: float, n_features: int = 40, seed: int = 0) -> Examples:
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(n_classes, n_features))
    targets = np.arange(n_images) % n_classes
    rows = centres[targets] + random.normal(0, spread, (n_images, n_features))
    return Examples.of(rows.astype(np.float32), [f"{n:03}" for n in targets])


def test_the_curve_runs_from_two_a_class_to_all_images(curve: LearningCurve, digits: Digits) -> None:
    sizes = [point.n_images for point in curve.points]
    assert len(sizes) == 8
    assert (sizes[0], sizes[-1]) == (20, digits[0].n_images)
    ratios = np.divide(sizes[1:], sizes[:-1])
    assert ratios == pytest.approx(np.full(7, ratios.mean()), rel=0.05)


def test_its_end_is_where_scikit_learns_ridge_is(curve: LearningCurve, digits: Digits) -> None:
    examples, rows, targets = digits
    mean, scale = examples.rows.mean(axis=0), examples.rows.std(axis=0)
    twin = RidgeClassifier(alpha=examples.rows.shape[1])
    twin.fit((examples.rows - mean) / scale, examples.targets)
    expected = twin.score((rows - mean) / scale, targets)
    assert curve.points[-1].accuracy == pytest.approx(expected, abs=1.5 / len(targets))


def test_more_images_are_better_and_the_reading_says_so(curve: LearningCurve) -> None:
    accuracies = [point.accuracy for point in curve.points]
    assert accuracies[0] < accuracies[3] < accuracies[-1]
    assert all(point.low < point.accuracy < point.high for point in curve.points)
    assert curve.judged_on == "held_out"
    assert curve.gain is not None
    assert curve.gain.low <= curve.gain.expected <= curve.gain.high


def test_a_curve_that_rises_promises_more() -> None:
    hard = learning_curve(clouds(400, 10, spread=6.0, n_features=100))
    assert hard.reading.startswith("More images would probably still help: about +")
    assert hard.gain is not None
    assert hard.gain.expected > 0.01


def test_a_perfect_classifier_needs_no_more_images() -> None:
    easy = learning_curve(clouds(300, 3, spread=0.2))
    assert easy.points[-1].accuracy == 1
    assert easy.reading.startswith("The curve is flat")


def test_noise_promises_nothing() -> None:
    random = np.random.default_rng(1)
    labels = ["ab"[n] for n in random.integers(0, 2, 600)]
    noise = learning_curve(Examples.of(random.normal(size=(600, 20)).astype(np.float32), labels))
    assert not noise.reading.startswith("More images would probably")


def test_without_held_out_images_the_training_images_judge_each_other(digits: Digits) -> None:
    examples, rows, targets = digits
    for held_out in ((None, None), (rows[:29], targets[:29]), (rows, np.full(len(rows), -1))):
        found = learning_curve(examples, *held_out, n_sizes=3)
        assert (found.judged_on, found.n_judged) == ("out_of_fold", examples.n_images)
        assert found.points[-1].n_images == pytest.approx(0.8 * examples.n_images, abs=10)
        assert [point.n_fits for point in found.points] == [5, 5, 5]
    assert found.points[-1].accuracy > 0.9


def test_held_out_images_of_unknown_classes_do_not_judge(digits: Digits, curve: LearningCurve) -> None:
    examples, rows, targets = digits
    more = np.concatenate([rows, rows[:7]]), np.concatenate([targets, np.full(7, -1)])
    assert learning_curve(examples, *more) == curve


def test_near_duplicates_do_not_judge_each_other() -> None:
    """Every image comes twice, and the labels are noise: only a twin in the other folds could know them."""
    random = np.random.default_rng(0)
    rows = np.repeat(random.normal(size=(200, 300)), 2, axis=0).astype(np.float32)
    labels = ["ab"[n] for n in np.repeat(random.integers(0, 2, 200), 2)]
    grouped = Examples.of(rows, labels, groups=np.repeat(np.arange(200), 2).tolist())
    apart, together = (
        learning_curve(one).points[-1].accuracy for one in (grouped, Examples.of(rows, labels))
    )
    assert apart < 0.62
    assert together > 0.8


def test_every_class_is_there_from_the_first_point() -> None:
    """One rare class among 2,000 images: it takes part even where its share would be less than one image."""
    random = np.random.default_rng(0)
    targets = np.array([0] * 1000 + [1] * 1000 + [2] * 4)
    rows = (np.eye(3)[targets] * 20 + random.normal(size=(2004, 3))).astype(np.float32)
    test = (np.eye(3)[np.full(40, 2)] * 20 + random.normal(size=(40, 3))).astype(np.float32)
    found = learning_curve(Examples.of(rows, ["abc"[n] for n in targets]), test, np.full(40, 2), n_sizes=3)
    assert found.points[0].accuracy > 0.9


def test_views_take_no_part(digits: Digits, curve: LearningCurve) -> None:
    examples, rows, targets = digits
    labels = [examples.names[target] for target in examples.targets]
    junk = np.zeros((5, examples.rows.shape[1]), dtype=np.float32)
    with_views = Examples.of(examples.rows, labels, views=junk, views_of=[0, 1, 2, 3, 4])
    assert learning_curve(with_views, rows, targets) == curve


def test_a_curve_that_would_cost_too_much_ends_early(digits: Digits) -> None:
    found = learning_curve(*digits, flops=2e6)
    assert found.n_images == digits[0].n_images
    assert 100 < found.points[-1].n_images < found.n_images / 2
    assert f"of {found.n_images:,} images)" in found.reading


@pytest.mark.parametrize("n_images", [4, 7, 12])
def test_few_images_give_a_short_curve_and_no_promise(n_images: int) -> None:
    found = learning_curve(clouds(n_images, 2, spread=0.5))
    assert found.points
    assert found.gain is None
    assert found.reading == "The curve is too short to tell whether more images would help."


def test_the_same_rows_give_the_same_curve_ready_for_json(digits: Digits, curve: LearningCurve) -> None:
    assert learning_curve(*digits) == curve
    assert json.loads(json.dumps(asdict(curve), allow_nan=False))["reading"] == curve.reading


def test_it_ends_soon_when_told_to(digits: Digits) -> None:
    with pytest.raises(TrainingCancelled):
        learning_curve(*digits, cancelled=lambda: True)


def test_a_folder_of_photos_takes_seconds() -> None:
    examples = clouds(2_350, 5, spread=3.0, n_features=1280)
    held_out = clouds(586, 5, spread=3.0, n_features=1280, seed=1)
    began = time.process_time()
    learning_curve(examples, held_out.rows, held_out.targets)
    assert time.process_time() - began < 10


def answers(sizes: Any, accuracies: Any, n_judged: int) -> Any:
    """Judged images in order of difficulty: at each size the easiest are answered right."""
    ease = (np.arange(n_judged) + 0.5) / n_judged
    return (ease[None, :] < np.asarray(accuracies)[:, None]).astype(np.float64)


@pytest.mark.parametrize("exponent", [0.3, 0.6, 1.0])
def test_a_power_law_is_recognised(exponent: float) -> None:
    sizes = np.array([20, 40, 80, 160, 320, 640, 1280])

    def law(n: Any) -> Any:
        return 0.95 - 1.2 * n**-exponent

    gain = gain_of_doubling(sizes, answers(sizes, law(sizes), 5_000), 1280)
    assert gain is not None
    assert gain.expected == pytest.approx(law(2560) - law(1280), abs=0.002)
    assert gain.low <= gain.expected <= gain.high


@pytest.mark.parametrize(
    ("sizes", "n_judged"), [([10, 20, 40, 80], 500), ([10, 15, 20, 30, 40], 500), ([10, 20, 40, 80, 160], 29)]
)
def test_a_short_curve_or_few_judges_tell_nothing(sizes: list[int], n_judged: int) -> None:
    accuracies = np.linspace(0.5, 0.9, len(sizes))
    assert gain_of_doubling(np.array(sizes), answers(sizes, accuracies, n_judged), sizes[-1]) is None
