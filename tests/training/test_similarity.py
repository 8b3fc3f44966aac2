"""Scores of taps against scikit-learn and brute force, and every quadrant reached by pictures drawn here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.linear_model import RidgeClassifier

from tlserve.core.assessment import Assessment, TapScore
from tlserve.core.plan import Strategy, Wish
from tlserve.core.strategy import Choice, choose
from tlserve.plugin_host import PluginHost, make_build
from tlserve.runtime import BackboneSession, choose_device
from tlserve.training.evidence import log_me
from tlserve.training.linear import TrainingCancelled
from tlserve.training.linear_score import PENALTIES, Chain, Cut
from tlserve.training.similarity import (
    MOST_IMAGES,
    chance_level,
    images_to_score,
    narrowed,
    score_taps,
    standard_error,
    tap_sets,
)

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]


def draw(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def classes_in(rows: Any, n_classes: int, noise: float = 1.0) -> Any:
    """A class for each row that a linear model can partly tell."""
    scores = rows @ draw(rows.shape[1], n_classes, seed=9) + noise * draw(len(rows), n_classes, seed=8)
    return scores.argmax(axis=1)


# -- LogME ----------------------------------------------------------------------------------------


def brute_evidence(rows: Any, target: Any) -> float:
    """The largest log density of `target` under N(0, I / beta + F F' / alpha), found by search."""
    gram = rows.astype(np.float64) @ rows.astype(np.float64).T

    def loss(logs: Any) -> float:
        alpha, beta = np.exp(logs)
        return -float(multivariate_normal.logpdf(target, cov=np.eye(len(target)) / beta + gram / alpha))

    return -float(
        minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-8}).fun
    )


@pytest.mark.parametrize(("n_images", "n_features"), [(40, 6), (30, 50)])
def test_log_me_is_the_evidence_that_brute_force_finds(n_images: int, n_features: int) -> None:
    rows = draw(n_images, n_features)
    targets = classes_in(rows, 3)
    brute = np.mean([brute_evidence(rows, (targets == index).astype(float)) for index in range(3)])
    assert log_me(rows, targets, 3) == pytest.approx(brute / n_images, abs=1e-5)


def test_log_me_ranks_features_by_what_they_say_of_the_classes() -> None:
    rows = draw(200, 8)
    targets = classes_in(rows, 3, noise=0.5)
    vague = rows + 2 * draw(200, 8, seed=3)
    assert log_me(rows, targets, 3) > log_me(vague, targets, 3) > log_me(draw(200, 8, seed=4), targets, 3)


def test_log_me_of_columns_that_repeat_or_are_constant_is_finite() -> None:
    rows = np.concatenate([draw(30, 2), draw(30, 2), np.ones((30, 1), np.float32)], axis=1)
    assert np.isfinite(log_me(rows, np.arange(30) % 2, 2))
    assert np.isfinite(log_me(np.zeros((30, 3), np.float32), np.arange(30) % 2, 2))


# -- the linear score -----------------------------------------------------------------------------


def twin(rows: Any, targets: Any, fold_of: Any, penalty: float) -> Any:
    """Out-of-fold hits of scikit-learn's ridge classifier, with the penalty in units of training rows."""
    right = np.zeros(len(rows), dtype=bool)
    for fold in np.unique(fold_of):
        held = fold_of == fold
        model = RidgeClassifier(alpha=penalty * (~held).sum()).fit(
            rows[~held].astype(np.float64), targets[~held]
        )
        right[held] = model.predict(rows[held].astype(np.float64)) == targets[held]
    return right


@pytest.mark.parametrize("affordable_flops", [1e12, 0.0])
def test_hits_are_those_of_scikit_learns_ridge_classifier(affordable_flops: float) -> None:
    rows = draw(300, 60)
    targets = classes_in(rows, 4, noise=4.0)
    fold_of = np.arange(300) % 5
    cut = Cut(rows, np.eye(4, dtype=np.float32)[targets], fold_of, 5, affordable_flops)
    chains = [Chain(np.arange(60), (20, 60)), Chain(np.arange(40, 60), (20,))]
    hits, _ = cut.hits(chains, lambda: None)
    for found, columns in zip(hits, (np.arange(20), np.arange(60), np.arange(40, 60)), strict=True):
        choosing = slice(None) if affordable_flops else fold_of == 0
        tried = [twin(rows[:, columns], targets, fold_of, penalty) for penalty in PENALTIES]
        top = max(right[choosing].mean() for right in tried)
        best = [right for right in tried if right[choosing].mean() == top][-1]
        assert (found == best).mean() >= 0.995


def test_a_rare_class_that_a_tap_knows_is_seen_where_accuracy_hides_it() -> None:
    targets = (np.arange(1000) % 50 == 0).astype(np.intp)
    rows = draw(1000, 20) + targets[:, None] * np.eye(1, 20, dtype=np.float32) * 2
    (score,) = score_taps(reading(a=rows), ("a",), targets, 2)
    assert score.accuracy < chance_level(targets) + 0.01
    assert score.even_accuracy > 0.75
    (blind,) = score_taps(reading(a=draw(1000, 20)), ("a",), targets, 2)
    assert blind.even_accuracy < 0.65


def test_classes_of_one_size_are_scored_alike_either_way() -> None:
    rows = draw(300, 20)
    targets = np.arange(300) % 3
    (score,) = score_taps(reading(a=rows + targets[:, None]), ("a",), targets, 3)
    assert score.even_accuracy == pytest.approx(score.accuracy, abs=0.005)


def test_a_tap_wider_than_the_images_are_many_loses_nothing_when_narrowed() -> None:
    rows = draw(20, 300)
    short = narrowed(rows)
    assert short.shape == (20, 20)
    np.testing.assert_allclose(short @ short.T, rows @ rows.T, atol=1e-2)
    assert narrowed(rows.T) is not None and narrowed(rows.T).shape == (300, 20)


def test_sets_are_each_tap_alone_and_the_last_with_ever_earlier_ones() -> None:
    assert tap_sets(("a", "b", "c")) == (("c",), ("b", "c"), ("a", "b", "c"), ("b",), ("a",))
    assert tap_sets(("only",)) == (("only",),)


# -- scores of taps -------------------------------------------------------------------------------


def reading(**taps: Any) -> Callable[[tuple[str, ...]], Any]:
    return lambda names: np.concatenate([taps[name] for name in names], axis=1)


def test_the_tap_that_holds_the_classes_wins_and_the_gain_is_paired() -> None:
    known = draw(400, 10)
    targets = classes_in(known, 3, noise=0.5)
    read = reading(early=known, late=draw(400, 30, seed=5))
    last, both, early = score_taps(read, ("early", "late"), targets, 3)
    assert (last.taps, both.taps, early.taps) == (("late",), ("early", "late"), ("early",))
    assert (last.n_features, both.n_features, early.n_features) == (30, 40, 10)
    assert early.accuracy > both.accuracy > last.accuracy + 0.2
    assert early.log_me > last.log_me
    assert early.gain == pytest.approx(early.accuracy - last.accuracy)
    assert (last.gain, last.gain_standard_error) == (0, 0)
    assert early.standard_error == pytest.approx(np.sqrt(early.accuracy * (1 - early.accuracy) / 400))


def test_units_of_a_tap_do_not_matter() -> None:
    known = draw(200, 10)
    targets = classes_in(known, 3)
    plain = score_taps(reading(a=known, b=draw(200, 5, seed=2)), ("a", "b"), targets, 3)
    scaled = score_taps(reading(a=1000 * known + 7, b=draw(200, 5, seed=2)), ("a", "b"), targets, 3)
    for one, other in zip(plain, scaled, strict=True):
        assert one.accuracy == pytest.approx(other.accuracy, abs=0.011)


def test_near_duplicates_are_never_on_both_sides() -> None:
    group_of = np.repeat(np.arange(60), 5)
    rows = (10 * draw(60, 40))[group_of] + 0.1 * draw(300, 40, seed=1)
    targets = np.random.default_rng(2).integers(0, 2, 60)[group_of]
    (leaking,) = score_taps(reading(a=rows), ("a",), targets, 2)
    (honest,) = score_taps(reading(a=rows), ("a",), targets, 2, groups=group_of + 1000)
    assert leaking.accuracy > 0.85
    assert honest.accuracy < 0.7
    assert honest.standard_error > 1.5 * leaking.standard_error


def test_a_standard_error_counts_groups_not_copies() -> None:
    values, alone = np.tile([0.0, 1.0], 50), np.arange(100)
    assert standard_error(values, alone) == pytest.approx(0.05)
    assert standard_error(np.repeat(values, 4), np.repeat(alone, 4)) == pytest.approx(0.05)


def test_the_same_seed_gives_the_same_scores() -> None:
    read, targets = reading(a=draw(90, 7), b=draw(90, 9, seed=1)), np.arange(90) % 3
    assert score_taps(read, ("a", "b"), targets, 3, seed=4) == score_taps(
        read, ("a", "b"), targets, 3, seed=4
    )


def test_many_images_are_sampled_evenly_and_a_sample_is_taken_whole() -> None:
    targets = np.repeat(np.arange(3), [150_000, 49_990, 10])
    chosen = images_to_score(targets, 3)
    assert MOST_IMAGES <= len(chosen) <= MOST_IMAGES + 12
    assert np.bincount(targets[chosen])[2] == 4
    assert len(images_to_score(targets[chosen], 3)) == len(chosen)
    (score,) = score_taps(reading(a=draw(200_000, 3)), ("a",), targets, 3)
    assert score.accuracy == pytest.approx(chance_level(targets), abs=0.02)


def test_scoring_stops_when_told() -> None:
    with pytest.raises(TrainingCancelled):
        score_taps(reading(a=draw(30, 3)), ("a",), np.arange(30) % 3, 3, cancelled=lambda: True)


@pytest.mark.parametrize("n_images", [4, 7, 12])
def test_a_handful_of_images_is_scored_too(n_images: int) -> None:
    read = reading(a=draw(n_images, 20), b=np.ones((n_images, 4), np.float32))
    for score in score_taps(read, ("a", "b"), np.arange(n_images) % 2, 2):
        assert 0 <= score.accuracy <= 1
        assert np.isfinite(score.log_me)


# -- every quadrant, by pictures ------------------------------------------------------------------

N_IMAGES, N_CLASSES = 240, 3


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackboneSession]:
    """The bundled backbone, five taps."""
    device = choose_device("cpu")
    build = make_build(PluginHost().load("nano"), "nano", tmp_path_factory.mktemp("builds"), device)
    session = BackboneSession.open(build, device)
    yield session
    session.close()


def things(random: np.random.Generator, which: int, size: int) -> Pixels:
    """A disc, a square or a triangle of any colour and size anywhere: what such a backbone is made to see."""
    image = Image.new("RGB", (size, size), tuple(random.integers(0, 256, 3).tolist()))
    pen, colour = ImageDraw.Draw(image), tuple(random.integers(0, 256, 3).tolist())
    half = int(random.integers(size // 10, size // 4))
    x, y = random.integers(half, size - half, 2).tolist()
    box = (x - half, y - half, x + half, y + half)
    if which == 0:
        pen.ellipse(box, fill=colour)
    elif which == 1:
        pen.rectangle(box, fill=colour)
    else:
        pen.polygon([(x, y - half), (x - half, y + half), (x + half, y + half)], fill=colour)
    return np.asarray(image)


def strokes(random: np.random.Generator, which: int, size: int) -> Pixels:
    """Sixty strokes of three pixels on noise, level, upright or slanting: gone where pictures shrink."""
    noise = random.normal(128, 30, (size, size, 3))
    for x, y in random.integers(2, size - 2, (60, 2)):
        for step in (-1, 0, 1):
            noise[y + step * (which != 0), x + step * (which != 1)] += 40
    return np.clip(noise, 0, 255).astype(np.uint8)


def nothing(random: np.random.Generator, which: int, size: int) -> Pixels:
    """Noise that is the same for every class."""
    return np.clip(random.normal(128, 40, (size, size, 3)), 0, 255).astype(np.uint8)


def measured(session: BackboneSession, picture: Callable[..., Pixels]) -> tuple[TapScore, ...]:
    random, targets = np.random.default_rng(0), np.arange(N_IMAGES) % N_CLASSES
    size = session.spec.image.height
    pixels = np.stack([picture(random, int(which), size) for which in targets])
    rows = np.concatenate([session.rows(pixels[at : at + 40]) for at in range(0, N_IMAGES, 40)])
    taps = [tap.name for tap in session.spec.taps]
    return score_taps(lambda names: rows[:, session.spec.columns(names)], taps, targets, N_CLASSES)


@pytest.fixture(scope="module")
def of_things(nano: BackboneSession) -> tuple[TapScore, ...]:
    return measured(nano, things)


@pytest.fixture(scope="module")
def of_strokes(nano: BackboneSession) -> tuple[TapScore, ...]:
    return measured(nano, strokes)


def chosen(scores: tuple[TapScore, ...], large_images: int) -> Choice:
    return choose(Assessment(N_IMAGES, N_CLASSES, 1 / N_CLASSES, scores), Wish(large_images=large_images))


def test_few_pictures_of_whole_things_get_a_head(of_things: tuple[TapScore, ...]) -> None:
    choice = chosen(of_things, large_images=N_IMAGES + 1)
    assert (choice.strategy, choice.taps) == (Strategy.HEAD, ("features",))
    assert "240 images are few (large from 241)" in choice.reason
    assert choice.numbers["similarity"] > 0.98


def test_few_pictures_of_tiny_strokes_get_an_early_tap(of_strokes: tuple[TapScore, ...]) -> None:
    choice = chosen(of_strokes, large_images=N_IMAGES + 1)
    assert (choice.strategy, choice.taps) == (Strategy.TAPS, ("stage1",))
    assert choice.likeness == "different"
    assert choice.numbers["similarity"] < 0.8


def test_many_pictures_of_whole_things_teach_the_last_blocks(of_things: tuple[TapScore, ...]) -> None:
    assert chosen(of_things, large_images=N_IMAGES).strategy is Strategy.FINETUNE


def test_many_pictures_of_tiny_strokes_teach_every_block(
    of_strokes: tuple[TapScore, ...],
) -> None:
    assert chosen(of_strokes, large_images=N_IMAGES).strategy is Strategy.FINETUNE_ALL


def test_many_pictures_of_which_no_tap_knows_anything_begin_from_scratch(nano: BackboneSession) -> None:
    choice = chosen(measured(nano, nothing), large_images=N_IMAGES)
    assert choice.strategy is Strategy.SCRATCH
    assert "no tap tells the classes apart" in choice.reason
