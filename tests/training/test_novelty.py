"""The novelty block: within its budget, a rank among held-out images, and calm about odd data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from tlserve.core.head import Dense, Head, Novelty, farness, novelty_scores
from tlserve.release.head_file import head_from_bytes, head_to_bytes
from tlserve.training.centres import spherical_means, unit
from tlserve.training.novelty import STEEPEST, distance_curve, fit_novelty
from tlserve.training.scaling import Scaling

N_FEATURES = 40


def pictures(
    n: int, *, kinds: tuple[int, ...] = (0, 1, 2, 3, 4), n_features: int = N_FEATURES, seed: int = 0
) -> tuple[Any, Any]:
    """Rows as a network ends in them, not negative: (n, n_features) rows and the kind of each."""
    random = np.random.default_rng(seed)
    means = np.random.default_rng(99).gamma(0.7, 1, (12, n_features))
    of_kind = np.asarray(kinds)[np.arange(n) % len(kinds)]
    return (means[of_kind] * random.gamma(4, 0.25, (n, n_features))).astype(np.float32), of_kind


def fitted(rows: Any, targets: Any, held_out: Any = None, **more: Any) -> Novelty | None:
    scaling = Scaling.of(rows)
    n_classes = int(targets.max()) + 1
    return fit_novelty(scaling, scaling.apply(rows), targets.astype(np.intp), n_classes, held_out, **more)


def block_of(rows: Any, targets: Any, held_out: Any = None, **more: Any) -> Novelty:
    found = fitted(rows, targets, held_out, **more)
    assert found is not None
    return found


def scores(block: Novelty, rows: Any) -> Any:
    return novelty_scores(head_of(block), rows)


def head_of(block: Novelty, n_classes: int = 5) -> Head:
    layer = Dense(np.zeros((block.n_features, n_classes), np.float32), np.zeros(n_classes, np.float32))
    return Head(tuple(f"{n}" for n in range(n_classes)), ("features",), (layer,), novelty=block)


def kept_bytes(block: Novelty) -> int:
    tensors = load(head_to_bytes(head_of(block)))
    return sum(tensor.nbytes for name, tensor in tensors.items() if name.startswith("novelty."))


def test_novelty_is_a_rank_among_held_out_images() -> None:
    rows, targets = pictures(600)
    block = block_of(rows, targets, pictures(500, seed=1)[0])
    fresh = scores(block, pictures(2_000, seed=2)[0])
    assert np.mean(fresh > 0.95) == pytest.approx(0.05, abs=0.025)
    assert np.mean(fresh) == pytest.approx(0.5, abs=0.05)
    held_out = scores(block, pictures(500, seed=1)[0])
    assert np.quantile(held_out, 0.95) == pytest.approx(0.95, abs=0.005)


@pytest.mark.parametrize("n_held_out", [0, 10, 200])
def test_what_is_far_scores_near_one(n_held_out: int) -> None:
    rows, targets = pictures(300)
    held_out = pictures(n_held_out, seed=1)[0] if n_held_out else None
    block = block_of(rows, targets, held_out)
    assert scores(block, pictures(100, kinds=(7, 8, 9), seed=2)[0]).min() > 0.95
    assert np.median(scores(block, -rows)) == 1
    assert scores(block, np.zeros((1, N_FEATURES), np.float32))[0] == 1


def test_a_row_of_great_size_is_not_taken_for_well_known() -> None:
    """On it every linear score is great, so the head cannot be in doubt of it."""
    rows, targets = pictures(600)
    held_out, _ = pictures(200, seed=1)
    weight = np.random.default_rng(3).normal(size=(N_FEATURES, 5)).astype(np.float32)
    block = block_of(rows, targets, held_out, held_out_scores=held_out @ weight)
    assert block.doubt_weight > 0
    head = replace(head_of(block), layers=(Dense(weight, np.zeros(5, np.float32)),))
    strange = pictures(50, kinds=(7, 8, 9), seed=2)[0]
    assert novelty_scores(head, 1_000 * strange).min() > 0.9


def test_the_doubt_of_the_head_counts_as_much_as_distance() -> None:
    rows, targets = pictures(600)
    held_out, _ = pictures(200, seed=1)
    best = np.random.default_rng(0).normal(5, 2, 200).astype(np.float32)
    block = block_of(rows, targets, held_out, held_out_scores=np.stack([best, best - 1], axis=1))
    doubt = block.doubt_weight * np.maximum(block.sure_at - best, 0)
    distance = farness(replace(block, doubt_weight=0.0), held_out, best[:, None])
    assert doubt.std() == pytest.approx(distance.std(), rel=1e-3)
    assert np.mean(doubt == 0) == pytest.approx(0.1, abs=0.01)


def test_of_images_that_the_head_knows_its_doubt_says_nothing() -> None:
    rows, targets = pictures(600)
    few, _ = pictures(20, seed=1)
    assert block_of(rows, targets, few, held_out_scores=few[:, :5]).doubt_weight == 0


@pytest.mark.parametrize("best", [3.0, np.arange(60) / 1e30], ids=["all alike", "hardly different"])
def test_scores_that_tell_nothing_apart_are_survived(best: Any) -> None:
    rows, targets = pictures(300)
    held_out, _ = pictures(60, seed=1)
    told = np.full((60, 2), np.broadcast_to(best, 60)[:, None], np.float32)
    found = scores(block_of(rows, targets, held_out, held_out_scores=told), held_out)
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("n_classes", "n_features", "budget_kb"),
    [(1_000, 2_048, 256), (1_000, 2_048, 64), (5, 1_280, 256), (5, 1_280, 12), (40, 2_048, 256), (5, 40, 2)],
)
def test_the_budget_is_kept(n_classes: int, n_features: int, budget_kb: int) -> None:
    random = np.random.default_rng(0)
    targets = np.repeat(np.arange(n_classes), 50 if n_classes < 100 else 3)
    # Columns of all sizes, and one that is nearly constant: both take bytes of their own.
    means = random.gamma(0.7, 1, (n_classes, n_features)) * np.logspace(-1, 1, n_features)
    rows = (means[targets] * random.gamma(4, 0.25, (len(targets), n_features))).astype(np.float32)
    rows[:, 0] = 1_000 + random.normal(size=len(rows))
    block = block_of(rows, targets, rows[::2], budget_kb=budget_kb)
    assert block.mean.shape == block.scale.shape == (n_features,)
    assert kept_bytes(block) <= budget_kb * 1024
    if n_classes * 8 * n_features * 2 > budget_kb * 1024:
        assert kept_bytes(block) > 0.4 * budget_kb * 1024, "and used"


def test_where_not_even_one_centre_fits_there_is_none() -> None:
    rows, targets = pictures(50, n_features=2_048)
    assert fitted(rows, targets, budget_kb=1) is None


def test_alike_classes_share_centres_where_the_budget_is_small() -> None:
    """200 classes of 20 families, and room for 62 centres of 256 columns."""
    random = np.random.default_rng(0)
    families = random.gamma(0.7, 1, (30, 256))
    means = families.repeat(10, axis=0) * random.gamma(4, 0.25, (300, 256))

    def images(kinds: Any) -> Any:
        return (means[kinds] * random.gamma(9, 1 / 9, (len(kinds), 256))).astype(np.float32)

    targets = np.repeat(np.arange(200), 6)
    held_out = images(targets)
    block = block_of(images(targets), targets, held_out, budget_kb=32)
    assert len(block.centroids) < 70
    assert np.median(scores(block, images(np.arange(200, 300)))) > 0.95
    assert np.quantile(scores(block, held_out), 0.95) == pytest.approx(0.95, abs=0.01)


def test_what_is_read_back_is_what_was_fitted() -> None:
    rows, targets = pictures(300)
    held_out, _ = pictures(100, seed=1)
    block = block_of(rows, targets, held_out, held_out_scores=held_out[:, :5])
    assert block.doubt_weight > 0
    head = head_of(block)
    np.testing.assert_array_equal(
        novelty_scores(head_from_bytes(head_to_bytes(head)), held_out), novelty_scores(head, held_out)
    )


def test_the_same_arguments_give_the_same_block() -> None:
    rows, targets = pictures(300)
    one, other = (head_to_bytes(head_of(block_of(rows, targets, seed=seed))) for seed in (3, 3))
    assert one == other


@pytest.mark.parametrize("counts", [(1, 1), (1, 60), (2, 3), (10, 10, 10), (300, 7, 1)])
@pytest.mark.parametrize("n_held_out", [0, 2])
def test_few_images_are_enough(counts: tuple[int, ...], n_held_out: int) -> None:
    targets = np.repeat(np.arange(len(counts)), counts)
    rows = pictures(len(targets))[0]
    block = block_of(rows, targets, rows[:n_held_out])
    found = scores(block, np.concatenate([rows, -rows]))
    assert np.isfinite(found).all()
    assert found.min() >= 0 and found.max() == 1


def test_ten_images_of_a_class_give_a_fair_scale() -> None:
    """Each is measured against centres made without it: as an image of tomorrow will be."""
    rows, targets = pictures(50)
    fresh = scores(block_of(rows, targets), pictures(1_000, seed=5)[0])
    assert np.mean(fresh > 0.95) < 0.2
    assert np.median(fresh) == pytest.approx(0.5, abs=0.2)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda rows: np.where(np.arange(N_FEATURES) == 3, 1e4, rows), id="a constant column"),
        pytest.param(lambda rows: rows * np.where(np.arange(N_FEATURES) < 2, 1e4, 1), id="two giant columns"),
        pytest.param(lambda rows: rows + 30, id="far from zero"),
        pytest.param(lambda rows: rows * 1e6, id="large"),
        pytest.param(lambda rows: rows * 1e-6, id="small"),
        pytest.param(lambda rows: np.where(np.arange(N_FEATURES) < 30, rows, 0), id="columns of zeros"),
    ],
)
def test_columns_of_any_size_leave_the_new_apart(spoil: Any) -> None:
    rows, targets = pictures(600)
    held_out, strange = pictures(300, seed=1)[0], pictures(300, kinds=(7, 8, 9), seed=2)[0]
    rows, held_out, strange = (spoil(part).astype(np.float32) for part in (rows, held_out, strange))
    block = block_of(rows, targets, held_out)
    assert np.median(scores(block, strange)) > 0.95
    assert np.quantile(scores(block, held_out), 0.95) == pytest.approx(0.95, abs=0.02)


def test_images_that_are_all_alike_give_no_steep_curve() -> None:
    """float32 could not tell their distances apart, nor numpy and the exported graph agree on them."""
    distances, ranks = distance_curve(np.full(80, 1e-7))
    assert (np.diff(ranks) / np.diff(distances)).max() <= STEEPEST * 1.01
    assert ranks[-1] == 1


# -- centres


def test_centres_find_the_groups_of_a_class() -> None:
    rows, kinds = pictures(400, kinds=(0, 1, 2, 3))
    centres = spherical_means(unit(rows), 4, np.random.default_rng(0))
    nearest = (unit(rows) @ centres.T).argmax(axis=1)
    groups = {frozenset(np.flatnonzero(nearest == centre)) for centre in range(4)}
    assert groups == {frozenset(np.flatnonzero(kinds == kind)) for kind in range(4)}
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, atol=1e-5)


def test_rows_that_are_all_alike_need_one_centre() -> None:
    assert len(spherical_means(unit(np.ones((20, 3), np.float32)), 8, np.random.default_rng(0))) == 1
