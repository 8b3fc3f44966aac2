"""Folds, gradients and temperatures, one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tlserve.training.calibration import calibrate, calibration_error, nll
from tlserve.training.folds import plan_folds, stratified_folds, stratified_sample
from tlserve.training.scaling import Scaling
from tlserve.training.search import CrossValidation, Trial, best_step, climb
from tlserve.training.softmax import Fits, data_loss, loss_and_gradient, solve


def draw(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def some_fits(n_fits: int = 2) -> Fits:
    targets = np.arange(30) % 3
    weights = np.abs(draw(n_fits, 30, seed=1))
    weights[0, :5] = 0
    return Fits(draw(30, 4), targets, weights, 3)


def test_the_gradient_is_that_of_the_loss() -> None:
    fits = some_fits()
    point = draw(int(np.prod(fits.shape)), seed=2).astype(np.float64)
    _, gradient = loss_and_gradient(fits, 0.5, point)
    step = 1e-2
    for index in range(0, len(point), 3):
        ahead, behind = point.copy(), point.copy()
        ahead[index] += step
        behind[index] -= step
        rise = loss_and_gradient(fits, 0.5, ahead)[0] - loss_and_gradient(fits, 0.5, behind)[0]
        assert gradient[index] == pytest.approx(rise / (2 * step), abs=1e-3)


def test_fits_do_not_disturb_each_other() -> None:
    both = some_fits(2)
    together = solve(both, 0.5)
    for index in range(2):
        alone = Fits(both.rows, both.targets, both.row_weights[index : index + 1], 3)
        np.testing.assert_allclose(solve(alone, 0.5)[0], together[index], atol=5e-3)


def test_rows_worked_off_in_blocks_give_the_same() -> None:
    fits = Fits(draw(300, 4), np.arange(300) % 3, np.ones((1, 300), np.float32), 3)
    point = draw(1, 3, 5, seed=3)
    whole, blocks = data_loss(fits, point), data_loss(fits, point, scores_at_once=300)
    assert blocks[0] == pytest.approx(whole[0], rel=1e-6)
    np.testing.assert_allclose(blocks[1], whole[1], atol=1e-4)


@pytest.mark.parametrize("n_folds", [3, 5])
def test_folds_deal_every_class_out_evenly(n_folds: int) -> None:
    targets = np.repeat([0, 1, 2], [50, 7, 2])
    fold_of = stratified_folds(targets, n_folds, np.random.default_rng(0))
    for target, size in enumerate((50, 7, 2)):
        dealt = np.bincount(fold_of[targets == target], minlength=n_folds)
        assert dealt.max() - dealt.min() <= 1
        assert dealt.max() < size, "some of the class always trains"


def test_a_sample_keeps_the_shares_and_some_of_every_class() -> None:
    targets = np.repeat([0, 1, 2], [9000, 990, 10])
    sample = stratified_sample(targets, 1000, np.random.default_rng(0))
    assert np.bincount(targets[sample]).tolist() == [900, 99, 4]
    assert len(set(sample.tolist())) == len(sample)


@pytest.mark.parametrize(
    ("n_rows", "n_classes", "n_features", "n_folds", "n_fits"),
    [(2_350, 5, 1280, 5, 5), (50_000, 10, 1280, 3, 3), (20_000, 1_000, 1280, 3, 1), (1_000_000, 2, 8, 3, 3)],
)
def test_cross_validation_is_cut_to_a_budget(
    n_rows: int, n_classes: int, n_features: int, n_folds: int, n_fits: int
) -> None:
    targets = np.arange(n_rows) % n_classes
    plan = plan_folds(targets, n_classes, n_features, np.random.default_rng(0))
    assert (plan.n_folds, plan.n_fits) == (n_folds, n_fits)
    assert len(plan.rows) == len(plan.fold_of) <= 201_000


@pytest.mark.parametrize("factor", [0.2, 1.0, 5.0])
def test_the_temperature_undoes_a_wrong_scale(factor: float) -> None:
    random = np.random.default_rng(0)
    right = draw(4000, 3)
    odds = np.exp(right) / np.exp(right).sum(axis=1, keepdims=True)
    targets = np.array([random.choice(3, p=row / row.sum()) for row in odds.astype(np.float64)])
    found = calibrate(right * np.float32(factor), targets)
    assert found.temperature == pytest.approx(factor, rel=0.1)
    assert found.nll_after <= found.nll_before
    assert found.ece_after < 0.03


def test_a_few_perfect_scores_do_not_make_a_model_certain() -> None:
    found = calibrate(np.eye(2, dtype=np.float32), np.array([0, 1]))
    assert 0.2 < found.temperature <= 1


def test_loss_and_error_of_known_scores() -> None:
    scores = np.log(np.asarray([[0.8, 0.2]] * 10, np.float32))
    targets = np.array([0] * 8 + [1] * 2)
    assert nll(scores, targets, 1.0) == pytest.approx(-(0.8 * np.log(0.8) + 0.2 * np.log(0.2)), abs=1e-6)
    assert calibration_error(scores, targets, 1.0) == pytest.approx(0, abs=1e-6)
    assert calibration_error(scores, np.zeros(10, dtype=np.intp), 1.0) == pytest.approx(0.2, abs=1e-6)


def test_scaling_folds_into_a_layer_and_back() -> None:
    rows = draw(50, 6) * np.logspace(-2, 3, 6, dtype=np.float32) + np.float32(7)
    scaling = Scaling.of(rows)
    standardised = scaling.apply(rows)
    np.testing.assert_allclose(standardised.std(axis=0), 1, atol=1e-3)
    parameters = draw(3, 7, seed=5).astype(np.float64)
    layer = scaling.fold_in(parameters)
    expected = standardised @ parameters[:, :-1].T + parameters[:, -1]
    np.testing.assert_allclose(rows @ layer.weight + layer.bias, expected, rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(scaling.unfold(layer), parameters, rtol=1e-3, atol=1e-3)


def trial(loss: float) -> Trial:
    found = calibrate(np.eye(2, dtype=np.float32), np.array([0, 1]))
    calibration = type(found)(1.0, loss, loss, 0.0, 0.0)
    return Trial(1.0, 0.9, calibration, np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("losses", "start", "tried", "best"),
    [
        ([5, 4, 3, 2, 1, 2, 3, 4], 2, [2, 3, 4, 5], 4),
        ([5, 4, 3, 4, 5, 6, 7, 8], 2, [1, 2, 3], 2),
        ([1, 2, 3, 4, 5, 6, 7, 8], 2, [0, 1, 2, 3], 0),
        ([8, 7, 6, 5, 4, 3, 2, 1], 2, [2, 3, 4, 5, 6, 7], 7),
        ([9, 2, 3, 4, 5, 6, 7, 8], 2, [0, 1, 2, 3], 1),
        ([1, 1, 1, 1, 1, 1, 1, 1], 2, [0, 1, 2, 3], 0),
    ],
)
def test_the_climb_finds_the_valley(losses: list[float], start: int, tried: list[int], best: int) -> None:
    found = climb(lambda step: trial(losses[step]), len(losses), start)
    assert sorted(found) == tried
    assert best_step(found) == best


def test_unseen_rows_are_unseen() -> None:
    """Labels drawn by lot cannot be told better than by lot, however many columns there are."""
    random = np.random.default_rng(0)
    rows, targets = draw(300, 200), random.integers(0, 2, 300)
    plan = plan_folds(targets, 2, 200, random)
    found = CrossValidation(rows, targets, np.ones(2, np.float32), plan).try_penalty(0.1)
    assert found.accuracy == pytest.approx(0.5, abs=0.1)
