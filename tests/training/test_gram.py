"""Sums of products: whatever came and went, they are those of the rows that are there."""

from __future__ import annotations

import numpy as np
import pytest

from tlserve.training.gram import Gram, class_weight
from tlserve.training.scaling import Scaling

N_FEATURES = 12


def rows_of(n: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.normal(3, 2, (n, N_FEATURES)) * np.logspace(-2, 2, N_FEATURES)).astype(np.float32)


@pytest.fixture
def scaling() -> Scaling:
    return Scaling.of(rows_of(400))


def test_it_is_the_weighted_products_of_standardised_bordered_rows(scaling: Scaling) -> None:
    rows, labels = rows_of(60, 1), ["a"] * 50 + ["rare"] * 10
    gram = Gram(scaling, {"a": 1.0, "rare": 2.0})
    gram.add(rows, labels)
    bordered = np.hstack([scaling.apply(rows).astype(np.float64), np.ones((60, 1))])
    weights = np.array([1.0] * 50 + [2.0] * 10)
    np.testing.assert_allclose(gram.matrix, (bordered * weights[:, None]).T @ bordered, rtol=1e-12)
    expected = np.stack([bordered[:50].sum(axis=0), 2 * bordered[50:].sum(axis=0)], axis=1)
    np.testing.assert_allclose(gram.cross(("a", "rare")), expected, rtol=1e-12)


def test_many_rows_at_once_are_as_exact_as_it_takes(scaling: Scaling) -> None:
    rows, labels = rows_of(3_000, 1), ["a", "b", "b"] * 1_000
    at_once, little_by_little = Gram(scaling), Gram(scaling, {"a": 1.0, "b": 1.0})
    at_once.add(rows, labels)
    for begin in range(0, 3_000, 500):
        little_by_little.add(rows[begin : begin + 500], labels[begin : begin + 500])
    scale = np.abs(little_by_little.matrix).max()
    np.testing.assert_allclose(at_once.matrix, little_by_little.matrix, atol=1e-6 * scale)


def test_a_class_is_gone_with_its_last_row_and_may_come_back(scaling: Scaling) -> None:
    rows = rows_of(30, 2)
    gram = Gram(scaling)
    gram.add(rows[:20], ["a"] * 20)
    before = gram.matrix.copy()
    gram.add(rows[20:], ["b"] * 10)
    gram.remove(rows[20:], ["b"] * 10)
    assert gram.names == ("a",)
    np.testing.assert_array_equal(gram.cross(("b",)), 0)
    np.testing.assert_allclose(gram.matrix, before, atol=1e-9)
    gram.add(rows[20:], ["b"] * 10)
    assert gram.names == ("a", "b")


def test_what_is_not_there_cannot_be_taken_away(scaling: Scaling) -> None:
    gram = Gram(scaling)
    gram.add(rows_of(3), ["a", "a", "b"])
    before = gram.matrix.copy()
    with pytest.raises(ValueError, match="'b'"):
        gram.remove(rows_of(2), ["b", "b"])
    np.testing.assert_array_equal(gram.matrix, before)
    assert gram.n_rows == 3


def test_a_new_class_is_weighed_by_what_it_has_when_it_comes(scaling: Scaling) -> None:
    gram = Gram(scaling)
    gram.add(rows_of(120), ["a"] * 120)
    gram.add(rows_of(8, 1), ["rare"] * 8)
    assert gram.weights == {"a": 1.0, "rare": pytest.approx(5.0)}


def test_it_is_stale_once_much_came_and_went(scaling: Scaling) -> None:
    gram = Gram.rebuilt(scaling, [(rows_of(400), ["a", "b"] * 200)], {"a": 1.0, "b": 1.0})
    for _ in range(10):
        assert not gram.is_stale
        gram.add(rows_of(5, 3), ["a"] * 5)
        gram.remove(rows_of(5, 3), ["a"] * 5)
    gram.add(rows_of(2, 3), ["a", "b"])
    assert gram.is_stale


def test_it_is_stale_once_a_class_has_outgrown_its_weight(scaling: Scaling) -> None:
    gram = Gram.rebuilt(scaling, [(rows_of(330), ["a"] * 300 + ["b"] * 30)], {"a": 1.0, "b": 10 / 3})
    gram.add(rows_of(10, 3), ["b"] * 10)
    assert not gram.is_stale
    gram.add(rows_of(10, 3), ["b"] * 10)
    assert gram.is_stale


def test_a_rare_class_is_raised_to_a_third_of_the_largest_at_most_tenfold() -> None:
    assert [class_weight(n, 300) for n in (300, 100, 50, 10, 1)] == [1.0, 1.0, 2.0, 10.0, 10.0]
