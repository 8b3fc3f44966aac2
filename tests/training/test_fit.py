"""From rows to a head: as good as scikit-learn, calibrated, and calm about odd data."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tlserve.core.errors import NonFiniteRow
from tlserve.core.head import Dense, Head, apply, logits, novelty_scores
from tlserve.training import TrainedHead, TrainingCancelled, train_softmax

TAPS = ("features",)


def clouds(
    counts: dict[str, int], *, n_features: int = 20, spread: float = 2.0, seed: int = 0
) -> tuple[Any, list[str]]:
    """One Gaussian cloud a class, columns of very different size: (rows, labels), in random order."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(0, 1, (1100, n_features))
    labels = [label for label, n in counts.items() for _ in range(n)]
    index = [list(counts).index(label) for label in labels]
    rows = centres[index] + random.normal(0, spread, (len(labels), n_features))
    rows = rows * np.logspace(-2, 2, n_features) + np.logspace(0, 3, n_features)
    order = random.permutation(len(labels))
    return rows[order].astype(np.float32), [labels[i] for i in order]


def accuracy(trained: TrainedHead | Head, rows: Any, labels: Any) -> float:
    head = trained.head if isinstance(trained, TrainedHead) else trained
    return float(np.mean(np.asarray(head.labels)[apply(head, rows).argmax(axis=1)] == np.asarray(labels)))


def log_loss(head: Head, rows: Any, labels: list[str]) -> float:
    columns = [head.labels.index(label) for label in labels]
    return float(-np.log(apply(head, rows)[np.arange(len(labels)), columns]).mean())


@pytest.fixture(scope="module")
def digits() -> tuple[Any, Any, Any, Any]:
    rows, targets = load_digits(return_X_y=True)
    labels = np.array([f"digit {n}" for n in targets])
    split = train_test_split(rows.astype(np.float32), labels, test_size=0.2, stratify=labels, random_state=0)
    return split[0], split[1], split[2], split[3]


@pytest.fixture(scope="module")
def trained_on_digits(digits: tuple[Any, Any, Any, Any]) -> TrainedHead:
    train, _, labels, _ = digits
    return train_softmax(train, list(labels), TAPS)


def test_it_is_within_half_a_point_of_scikit_learn(
    digits: tuple[Any, Any, Any, Any], trained_on_digits: TrainedHead
) -> None:
    train, test, labels, truth = digits
    solvers = [LogisticRegression(C=c, max_iter=2000) for c in (0.01, 0.1, 1.0)]
    models = [make_pipeline(StandardScaler(), solver) for solver in solvers]
    best = max(model.fit(train, labels).score(test, truth) for model in models)
    assert accuracy(trained_on_digits, test, truth) >= best - 0.005
    assert best > 0.95


def test_the_optimum_is_that_of_scikit_learn() -> None:
    rows, labels = clouds({"a": 80, "b": 80, "c": 80})
    trained = train_softmax(rows, labels, TAPS)
    theirs = LogisticRegression(C=trained.report["C"], tol=1e-8, max_iter=5000)
    probabilities = make_pipeline(StandardScaler(), theirs).fit(rows, labels).predict_proba(rows)
    head = trained.head
    ours = apply(Head(head.labels, head.taps, head.layers), rows)
    np.testing.assert_allclose(ours, probabilities, atol=0.005)


def test_the_report_says_how_and_is_ready_for_json(trained_on_digits: TrainedHead) -> None:
    report = json.loads(json.dumps(trained_on_digits.report, allow_nan=False))
    assert report["C"] in [tried["C"] for tried in report["grid"]]
    assert (report["n_train"], report["n_features"], report["warm"]) == (1437, 64, False)
    assert report["folds"] == {"n_folds": 5, "n_fits": 5, "n_rows": 1437}
    assert report["temperature"] == trained_on_digits.head.temperature
    assert report["cv_accuracy"] > 0.94
    assert report["seconds"] > 0


def test_a_temperature_never_makes_the_log_loss_worse(trained_on_digits: TrainedHead) -> None:
    out_of_fold = trained_on_digits.report["out_of_fold"]
    assert out_of_fold["nll_after"] <= out_of_fold["nll_before"]
    assert out_of_fold["ece_after"] < 0.03


def test_probabilities_can_be_trusted_on_unseen_images(
    digits: tuple[Any, Any, Any, Any], trained_on_digits: TrainedHead
) -> None:
    _, test, _, truth = digits
    answers = apply(trained_on_digits.head, test)
    confidence, right = answers.max(axis=1), accuracy(trained_on_digits, test, truth)
    assert abs(float(confidence.mean()) - right) < 0.02


def test_the_same_rows_give_the_same_head() -> None:
    rows, labels = clouds({"a": 40, "b": 40})
    one, other = (train_softmax(rows, labels, TAPS).head for _ in range(2))
    np.testing.assert_array_equal(one.layers[0].weight, other.layers[0].weight)
    assert one.temperature == other.temperature


def test_labels_are_sorted_and_kept_verbatim() -> None:
    rows, labels = clouds({"Zebra": 10, "ähre": 10, "a b": 10})
    assert train_softmax(rows, labels, ("early", "features")).head.labels == ("Zebra", "a b", "ähre")


# -- odd data


@pytest.mark.parametrize(
    "counts",
    [
        pytest.param({"a": 50, "b": 50}, id="two classes"),
        pytest.param({"a": 2, "b": 2}, id="two images each"),
        pytest.param({"a": 1, "b": 1}, id="one image each"),
        pytest.param({"a": 1, "b": 60}, id="a single image beside many"),
        pytest.param({"a": 60, "b": 60, "c": 2}, id="a tiny class"),
        pytest.param({"a": 300, "b": 20, "c": 5}, id="imbalance"),
    ],
)
def test_any_sizes_give_a_working_head(counts: dict[str, int]) -> None:
    rows, labels = clouds(counts, spread=0.3)
    trained = train_softmax(rows, labels, TAPS)
    answers = apply(trained.head, rows)
    assert answers.shape == (len(rows), len(counts))
    assert np.isfinite(answers).all()
    assert accuracy(trained, rows, labels) == 1.0
    assert 0.05 <= trained.head.temperature <= 20


def test_constant_columns_change_nothing() -> None:
    rows, labels = clouds({"a": 40, "b": 40})
    constant = np.full((len(rows), 1), 1234.567, np.float32)
    padded = np.hstack([constant, rows, np.zeros((len(rows), 3), np.float32)])
    head = train_softmax(padded, labels, TAPS).head
    np.testing.assert_array_equal(head.layers[0].weight[[0, -3, -2, -1]], 0)
    assert accuracy(head, padded, labels) == accuracy(train_softmax(rows, labels, TAPS), rows, labels)


def test_rows_that_are_all_equal_give_the_shares_of_the_classes() -> None:
    rows = np.ones((40, 8), np.float32)
    labels = ["a"] * 30 + ["b"] * 10
    head = train_softmax(rows, labels, TAPS).head
    np.testing.assert_allclose(apply(head, rows[:1]), [[0.75, 0.25]], atol=0.05)


def test_duplicate_rows_with_two_labels_are_an_even_bet() -> None:
    rows, labels = clouds({"a": 40, "b": 40}, spread=0.3)
    twice = np.vstack([rows, np.repeat(rows[:1], 20, axis=0)])
    head = train_softmax(twice, [*labels, *["a", "b"] * 10], TAPS).head
    assert apply(head, rows[:1]).max() < 0.99


def test_a_rare_class_is_not_forgotten() -> None:
    counts = {"a": 600, "b": 600, "rare": 20}
    rows, labels = clouds(counts, n_features=12, spread=2.5)
    test, truth = clouds(dict.fromkeys(counts, 200), n_features=12, spread=2.5, seed=1)
    trained = train_softmax(rows, labels, TAPS)
    assert trained.report["class_weights"] == {"rare": 10.0}
    rare = np.asarray(truth) == "rare"
    even = LogisticRegression(max_iter=2000).fit(StandardScaler().fit_transform(rows), labels)
    missed = even.predict(StandardScaler().fit(rows).transform(test[rare])) != "rare"
    assert accuracy(trained, test[rare], ["rare"] * 200) > 1 - missed.mean() + 0.1


def test_classes_up_to_three_times_smaller_count_as_they_are() -> None:
    rows, labels = clouds({"a": 90, "b": 30})
    assert train_softmax(rows, labels, TAPS).report["class_weights"] == {}


def test_noise_is_not_learnt_by_heart() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(400, 100)).astype(np.float32)
    labels = ["ab"[n] for n in random.integers(0, 2, 400)]
    fresh = random.normal(size=(400, 100)).astype(np.float32)
    assert apply(train_softmax(rows, labels, TAPS).head, fresh).max(axis=1).mean() < 0.65


def test_hundreds_of_classes_take_seconds() -> None:
    rows, labels = clouds({f"class {n:04}": 4 for n in range(300)}, n_features=64, spread=0.4)
    began = time.process_time()
    trained = train_softmax(rows, labels, TAPS)
    assert accuracy(trained, rows, labels) > 0.95
    assert time.process_time() - began < 20


@pytest.mark.parametrize(
    ("rows", "labels"),
    [
        (np.zeros((3, 2), np.float32), ["a", "a", "a"]),
        (np.zeros((0, 2), np.float32), []),
        (np.zeros((3, 2), np.float32), ["a", "b"]),
        (np.zeros(3, np.float32), ["a", "b", "a"]),
    ],
)
def test_what_cannot_be_learnt_is_refused(rows: Any, labels: list[str]) -> None:
    with pytest.raises(ValueError):
        train_softmax(rows, labels, TAPS)


def test_rows_with_nan_are_refused() -> None:
    rows, labels = clouds({"a": 5, "b": 5})
    rows[3, 2] = np.nan
    with pytest.raises(NonFiniteRow):
        train_softmax(rows, labels, TAPS)


def test_the_rows_are_left_as_they_were() -> None:
    rows, labels = clouds({"a": 20, "b": 20})
    rows.setflags(write=False)
    train_softmax(rows, labels, TAPS, held_out_rows_for_novelty=rows)


# -- warm starts, progress, cancel


def test_the_next_head_starts_from_the_last_one() -> None:
    rows, labels = clouds({"a": 200, "b": 200, "c": 200}, n_features=60)
    first = train_softmax(rows[:-10], labels[:-10], TAPS)
    again = train_softmax(rows, labels, TAPS, warm=first.head)
    cold = train_softmax(rows, labels, TAPS)
    assert again.report["warm"]
    np.testing.assert_allclose(apply(again.head, rows), apply(cold.head, rows), atol=0.01)


def test_a_new_class_joins_the_old_ones() -> None:
    rows, labels = clouds({"a": 60, "b": 60, "c": 60}, spread=0.3)
    old = np.asarray(labels) != "c"
    first = train_softmax(rows[old], [label for label in labels if label != "c"], TAPS)
    assert accuracy(train_softmax(rows, labels, TAPS, warm=first.head), rows, labels) == 1.0


@pytest.mark.parametrize("change", ["taps", "width", "layers", "link"])
def test_a_head_of_another_form_is_no_start(change: str) -> None:
    rows, labels = clouds({"a": 20, "b": 20})
    head = train_softmax(rows, labels, TAPS).head
    layer = head.layers[0]
    square = Dense(np.eye(20, dtype=np.float32), np.zeros(20, np.float32))
    other = {
        "taps": Head(head.labels, ("early",), head.layers),
        "width": Head(head.labels, TAPS, (Dense(layer.weight[1:], layer.bias),)),
        "layers": Head(head.labels, TAPS, (square, layer)),
        "link": Head(head.labels, TAPS, head.layers, link="sigmoid"),
    }[change]
    assert not train_softmax(rows, labels, TAPS, warm=other).report["warm"]


def test_progress_rises_to_its_total() -> None:
    rows, labels = clouds({"a": 20, "b": 20})
    told: list[tuple[int, int]] = []
    train_softmax(rows, labels, TAPS, on_progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert told[0][0] == 0
    assert told[-1][0] == told[-1][1]
    assert len({total for _, total in told}) == 1


@pytest.mark.parametrize("asked_often", [0, 5, 25])
def test_a_cancel_ends_it_soon(asked_often: int) -> None:
    rows, labels = clouds({"a": 200, "b": 200, "c": 200})
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > asked_often

    with pytest.raises(TrainingCancelled):
        train_softmax(rows, labels, TAPS, cancelled=cancelled)
    assert asked == asked_often + 1


# -- novelty


def test_novelty_is_a_rank_among_held_out_images() -> None:
    counts = {"a": 200, "b": 200, "c": 200}
    rows, labels = clouds(counts, spread=0.5)
    held_out, _ = clouds(counts, spread=0.5, seed=1)
    head = train_softmax(rows, labels, TAPS, held_out_rows_for_novelty=held_out).head
    fresh, _ = clouds(counts, spread=0.5, seed=2)
    found = novelty_scores(head, fresh)
    assert np.mean(found) == pytest.approx(0.5, abs=0.05)
    assert np.mean(found > 0.95) == pytest.approx(0.05, abs=0.03)


def test_a_class_nobody_showed_is_novel() -> None:
    rows, labels = clouds({"a": 100, "b": 100, "never": 100}, spread=0.3)
    seen = np.asarray(labels) != "never"
    head = train_softmax(rows[seen], [label for label in labels if label != "never"], TAPS).head
    found = novelty_scores(head, rows)
    assert np.median(found[~seen]) > 0.95
    assert np.median(found[seen]) < 0.7


@pytest.mark.parametrize("n_held_out", [0, 1, 3])
def test_few_held_out_images_are_enough(n_held_out: int) -> None:
    rows, labels = clouds({"a": 2, "b": 3})
    held_out = rows[:n_held_out]
    head = train_softmax(rows, labels, TAPS, held_out_rows_for_novelty=held_out).head
    found = novelty_scores(head, rows)
    assert np.isfinite(found).all()
    assert ((found >= 0) & (found <= 1)).all()


def test_scores_are_finite_in_float32_whatever_the_columns() -> None:
    rows, labels = clouds({"a": 50, "b": 50})
    assert np.isfinite(logits(train_softmax(rows, labels, TAPS).head, rows * 10)).all()
