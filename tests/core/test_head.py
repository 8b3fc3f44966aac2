"""What a head computes, against arithmetic done by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tlserve.core.head import (
    Dense,
    Head,
    Layer,
    Novelty,
    Projection,
    answers,
    apply,
    centroid_distance,
    logits,
    novelty_scores,
    projection_matrix,
)

EYE = Dense(np.eye(2, dtype=np.float32), np.zeros(2, np.float32))


def head(*layers: Layer, **more: Any) -> Head:
    return Head(labels=("a", "b"), taps=("features",), layers=layers or (EYE,), **more)


def f32(*values: Any) -> Any:
    return np.asarray(values, dtype=np.float32)


def test_softmax_of_known_scores() -> None:
    found = apply(head(), f32([0, np.log(3)], [5, 5]))
    np.testing.assert_allclose(found, [[0.25, 0.75], [0.5, 0.5]], atol=1e-6)
    assert found.dtype == np.float32


def test_a_temperature_flattens() -> None:
    found = apply(head(temperature=2.0), f32([0, 2 * np.log(3)]))
    np.testing.assert_allclose(found, [[0.25, 0.75]], atol=1e-6)


def test_sigmoids_are_normalised() -> None:
    found = apply(head(link="sigmoid"), f32([0, np.log(3)]))
    np.testing.assert_allclose(found, [[0.5 / 1.25, 0.75 / 1.25]], atol=1e-6)


@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
def test_extreme_scores_stay_probabilities(link: str) -> None:
    found = apply(head(link=link), f32([1e9, -1e9], [-1e9, -1e9], [1e9, 1e9], [0, 0]))
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(found, [[1.0, 0.0], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]], atol=1e-6)


def test_two_layers_have_a_relu_between_them() -> None:
    first = Dense(f32([1, -1], [0, 0]), f32(0, 0))
    second = Dense(f32([1, 0], [0, 1]), f32(0.5, 0))
    np.testing.assert_array_equal(logits(head(first, second), f32([2, 9], [-2, 9])), [[2.5, 0], [0.5, 2]])


def test_a_projection_standardises_and_multiplies_by_a_matrix_that_its_seed_names() -> None:
    first = Projection(mean=f32(1, 2), scale=f32(2, 4), seed=7, n_out=3)
    second = Dense(f32([1, 0], [0, 1], [0, 0]), f32(0, 0))
    hidden = (f32([1, 1]) @ projection_matrix(7, 2, 3)).clip(min=0)
    np.testing.assert_allclose(logits(head(first, second), f32([3, 6])), hidden @ second.weight)


def test_a_projection_matrix_is_the_same_everywhere_and_keeps_the_length_of_rows() -> None:
    matrix = projection_matrix(7, 4, 5)
    assert np.sign(matrix).astype(int).tolist() == [
        [1, -1, -1, -1, 1],
        [-1, 1, 1, -1, 1],
        [-1, -1, 1, -1, 1],
        [-1, 1, 1, 1, -1],
    ]
    np.testing.assert_allclose(np.abs(matrix), 0.5)
    wide = projection_matrix(0, 300, 400)
    assert abs(wide.mean()) < 1e-3
    np.testing.assert_allclose((wide[:, 0] ** 2).sum(), 1, rtol=1e-5)


def test_the_last_layer_is_dense() -> None:
    with pytest.raises(ValueError, match="2 labels"):
        head(Projection(f32(0, 0), f32(1, 1), seed=0, n_out=2))


def test_no_rows_give_no_answers() -> None:
    assert apply(head(), np.zeros((0, 2), np.float32)).shape == (0, 2)
    assert novelty_scores(head(), np.zeros((0, 2), np.float32)).shape == (0,)


def test_novelty_is_the_rank_of_the_distance_to_the_nearest_centroid() -> None:
    block = Novelty(f32(1, 1), f32(2, 1), f32([1, 0], [0, 1]), f32(0, 0.5, 1), f32(0, 0.8, 1))
    rows = f32([3, 1], [1, 2], [-1, 1], [3, 2])
    expected = [0.0, 0.0, 1.0, 1 - math.sqrt(0.5)]
    np.testing.assert_allclose(centroid_distance(block, rows), expected, atol=1e-6)
    scores = novelty_scores(head(novelty=block), rows)
    np.testing.assert_allclose(scores, [0, 0, 1, expected[3] / 0.5 * 0.8], atol=1e-6)


def test_a_row_at_the_mean_is_like_nothing_seen() -> None:
    block = Novelty(f32(1, 1), f32(1, 1), f32([1, 0]), f32(0, 1), f32(0, 1))
    assert centroid_distance(block, f32([1, 1]))[0] == 1


def test_doubt_makes_an_image_farther_and_being_very_sure_no_nearer() -> None:
    block = Novelty(f32(0), f32(1), f32([1, 0], [0, 1]), f32(0, 1), f32(0, 1), doubt_weight=0.25, sure_at=3.0)
    # All lie at a centroid; the best class score is 1, 2, 3 and 30.
    rows = f32([1, 0], [0, 2], [3, 0], [30, 0])
    np.testing.assert_allclose(novelty_scores(head(novelty=block), rows), [0.5, 0.25, 0, 0], atol=1e-6)


def test_doubt_is_of_the_scores_before_temperature() -> None:
    block = Novelty(f32(0), f32(1), f32([1, 0]), f32(0, 1), f32(0, 1), doubt_weight=0.25, sure_at=3.0)
    found = [novelty_scores(head(novelty=block, temperature=t), f32([1, 0]))[0] for t in (0.5, 1.0, 4.0)]
    np.testing.assert_allclose(found, 0.5, atol=1e-6)


def test_answers_are_probabilities_and_novelty_in_one() -> None:
    block = Novelty(f32(0), f32(1), f32([1, 0]), f32(0, 2), f32(0, 1), doubt_weight=0.1, sure_at=3.0)
    one, rows = head(novelty=block), f32([1, 0], [-1, 2], [0, 0])
    probabilities, novelty = answers(one, rows)
    np.testing.assert_array_equal(probabilities, apply(one, rows))
    np.testing.assert_array_equal(novelty, novelty_scores(one, rows))
    assert len(set(novelty.tolist())) == 3


def test_a_head_without_a_novelty_block_finds_nothing_new() -> None:
    np.testing.assert_array_equal(novelty_scores(head(), f32([9, 9])), [0])


@pytest.mark.parametrize(
    "build",
    [
        lambda: Head(("a", "b"), ("features",), ()),
        lambda: head(EYE, EYE, EYE),
        lambda: Head(("a", "b", "c"), ("features",), (EYE,)),
        lambda: Head(("a", "a"), ("features",), (EYE,)),
        lambda: head(Dense(f32([1, 2, 3]), f32(0, 0, 0)), EYE),
        lambda: Dense(f32([1, 2]), f32(0)),
        lambda: Dense(f32(1, 2), f32(0, 0)),
        lambda: head(temperature=0.0),
        lambda: head(temperature=float("nan")),
        lambda: head(temperature=float("inf")),
        lambda: head(link="probit"),
        lambda: head(novelty=Novelty(f32(1), f32(1), f32([1]), f32(0), f32(0))),
        lambda: Novelty(f32(1, 2), f32(1, 2), f32([1]), f32(0), f32(0)),
        lambda: Novelty(f32(1, 2), f32(1, 2), f32([1, 2]), f32(0, 1), f32(0)),
        lambda: Novelty(f32(1), f32(1), f32(1, 2), f32(0), f32(0)),
        lambda: head(novelty=Novelty(f32(1), f32(1), f32([1, 2, 3]), f32(0), f32(0))),
    ],
)
def test_a_head_that_cannot_be_applied_cannot_be_made(build: Any) -> None:
    with pytest.raises(ValueError):
        build()
