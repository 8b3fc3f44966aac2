"""Folds, gradients and temperatures, one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tlserve.training.calibration import calibrate, calibration_error, nll
from tlserve.training.engine import Fits, NumpyEngine
from tlserve.training.folds import grouped_folds, plan_folds, stratified_folds, stratified_sample
from tlserve.training.linear import loss_and_gradient, solve
from tlserve.training.losses import Loss
from tlserve.training.scaling import Scaling
from tlserve.training.search import Trial, best_step, climb, loss_before
from tlserve.training.torch_engine import TorchEngine


def draw(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


LOSSES: tuple[Loss, ...] = ("softmax", "sigmoid", "squared_hinge")


def some_fits(n_fits: int = 2, loss: Loss = "softmax") -> Fits:
    targets = np.arange(30) % 3
    weights = np.abs(draw(n_fits, 30, seed=1))
    weights[0, :5] = 0
    return Fits(draw(30, 4), targets, weights, 3, loss)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_is_that_of_the_loss(loss: Loss) -> None:
    fits = some_fits(loss=loss)
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
    whole, blocks = (engine.data_loss(fits, point) for engine in (NumpyEngine(), NumpyEngine(300)))
    assert blocks[0] == pytest.approx(whole[0], rel=1e-6)
    np.testing.assert_allclose(blocks[1], whole[1], atol=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_torch_computes_what_numpy_computes(loss: Loss) -> None:
    fits, point = some_fits(loss=loss), 3 * draw(2, 3, 5, seed=3)
    ours, theirs = (engine.data_loss(fits, point) for engine in (NumpyEngine(), TorchEngine("cpu")))
    assert theirs[0] == pytest.approx(ours[0], rel=1e-5)
    np.testing.assert_allclose(theirs[1], ours[1], rtol=1e-4, atol=1e-4)


def test_torch_multiplies_and_solves_as_numpy_does() -> None:
    rows, weights = draw(40, 6), np.abs(draw(40, seed=1))
    ours, theirs = NumpyEngine(), TorchEngine("cpu")
    for _ in range(2):  # the second time, rows lie there already
        np.testing.assert_allclose(theirs.gram(rows, weights), ours.gram(rows, weights), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(theirs.times(rows, rows.T), ours.times(rows, rows.T), rtol=1e-4, atol=1e-4)
        hidden = theirs.hidden(rows, draw(6, 9))
        np.testing.assert_allclose(hidden, ours.hidden(rows, draw(6, 9)), rtol=1e-4, atol=1e-5)
    positive = np.eye(6) + ours.gram(rows, weights)
    solved = theirs.solve(positive.copy(), np.ones((6, 2)))
    np.testing.assert_allclose(positive @ solved, np.ones((6, 2)), atol=1e-8)
    np.testing.assert_allclose(ours.solve(positive.copy(), np.ones((6, 2))), solved, rtol=1e-8)


@pytest.mark.parametrize("n_folds", [3, 5])
def test_folds_deal_every_class_out_evenly(n_folds: int) -> None:
    targets = np.repeat([0, 1, 2], [50, 7, 2])
    fold_of = stratified_folds(targets, n_folds, np.random.default_rng(0))
    for target, size in enumerate((50, 7, 2)):
        dealt = np.bincount(fold_of[targets == target], minlength=n_folds)
        assert dealt.max() - dealt.min() <= 1
        assert dealt.max() < size, "some of the class always trains"


def test_a_group_shares_a_fold_and_folds_stay_even() -> None:
    targets = np.repeat([0, 1], [60, 40])
    groups = np.concatenate([np.repeat(np.arange(10), 3), 100 + np.arange(70)])
    fold_of = grouped_folds(targets, groups, 5, np.random.default_rng(0))
    assert all(len(set(fold_of[groups == group])) == 1 for group in range(10))
    assert np.bincount(fold_of).tolist() == [20] * 5


def test_a_class_of_one_group_is_never_missing_from_a_fit() -> None:
    targets, groups = np.repeat([0, 1], [20, 4]), np.concatenate([np.arange(20), np.full(4, 50)])
    fold_of = grouped_folds(targets, groups, 5, np.random.default_rng(0))
    assert len(set(fold_of[targets == 1])) == 4


def test_images_of_no_group_are_dealt_out_as_ever() -> None:
    targets = np.repeat([0, 1, 2], [50, 7, 2])
    alone = grouped_folds(targets, np.arange(59), 5, np.random.default_rng(0))
    np.testing.assert_array_equal(alone, stratified_folds(targets, 5, np.random.default_rng(0)))


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
    return Trial(1.0, np.eye(2, dtype=np.float32), 0.9, calibration)


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
    found = climb(lambda step: trial(losses[step]), len(losses), start, loss_before)
    assert sorted(found) == tried
    assert best_step(found, loss_before) == best
