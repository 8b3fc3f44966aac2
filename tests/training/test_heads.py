"""Every kind of head: as good as its twin in scikit-learn, blind to what it is asked, and repeatable."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import LinearSVC

from tests.training.support_training import TAPS, Digits, accuracy, noise, some_digits
from tlserve.core.head import Dense, Head, Projection, apply, logits, projection_matrix
from tlserve.core.plan import HeadKind
from tlserve.training import Examples, TrainedHead, TrainingCancelled, train
from tlserve.training.engine import NumpyEngine
from tlserve.training.fit import METHODS
from tlserve.training.folds import plan_folds
from tlserve.training.lesson import exam_of, lesson_of
from tlserve.training.method import Method, Workplace
from tlserve.training.ridge import PROJECTION_SEED, PROJECTION_WIDTH, total_variance
from tlserve.training.scaling import Scaling
from tlserve.training.torch_engine import TorchEngine

WITHIN = 0.005
KINDS = list(HeadKind)
LINEAR = [HeadKind.SOFTMAX, HeadKind.OVR, HeadKind.SVM, HeadKind.RIDGE]
QUICK = [kind for kind in HeadKind if kind is not HeadKind.MLP]


@pytest.fixture(scope="module")
def digits() -> Digits:
    return some_digits()


@pytest.fixture(scope="module")
def heads(digits: Digits) -> dict[HeadKind, TrainedHead]:
    return {kind: train(digits.examples, TAPS, kinds=[kind]) for kind in KINDS}


def projected(rows: Any) -> Any:
    return np.maximum(rows @ projection_matrix(PROJECTION_SEED, rows.shape[1], PROJECTION_WIDTH), 0)


def alpha_of(trained: TrainedHead, columns: Any) -> float:
    """The penalty that was chosen, as scikit-learn's Ridge has it."""
    return float(trained.report["penalty"]) * total_variance(np.asarray(columns, dtype=np.float32))


def twin(kind: HeadKind, trained: TrainedHead, digits: Digits) -> Any:
    """The same kind in scikit-learn, with the setting that was chosen here."""
    setting = trained.report.get("C")
    rows = StandardScaler().fit_transform(digits.train)
    if kind is HeadKind.SOFTMAX:
        model = LogisticRegression(C=setting, max_iter=2000)
    elif kind is HeadKind.OVR:
        model = OneVsRestClassifier(LogisticRegression(C=setting, max_iter=2000))
    elif kind is HeadKind.SVM:
        model = LinearSVC(C=setting, intercept_scaling=100, dual=False)  # a bias as free as ours
    elif kind is HeadKind.RIDGE:
        # Its indicators are -1 and 1: twice the coefficients, the same answers.
        model = RidgeClassifier(alpha=alpha_of(trained, rows))
    elif kind is HeadKind.PROJECTION:
        ridge = RidgeClassifier(alpha=alpha_of(trained, projected(rows)))
        model = make_pipeline(FunctionTransformer(projected), ridge)
    else:
        model = MLPClassifier((512,), early_stopping=True, max_iter=200, random_state=0)
    return make_pipeline(StandardScaler(), model).fit(digits.train, digits.labels)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_no_worse_than_its_twin_by_half_a_point(
    digits: Digits, heads: dict[HeadKind, TrainedHead], kind: HeadKind
) -> None:
    ours = accuracy(heads[kind], digits.test, digits.truth)
    theirs = float(twin(kind, heads[kind], digits).score(digits.test, digits.truth))
    assert ours >= theirs - WITHIN
    # Two networks differ by their draws; all others solve one and the same problem.
    assert kind is HeadKind.MLP or ours <= theirs + WITHIN
    assert ours > 0.88


@pytest.mark.parametrize("kind", [HeadKind.RIDGE, HeadKind.PROJECTION])
def test_ridge_coefficients_are_those_of_scikit_learn(
    digits: Digits, heads: dict[HeadKind, TrainedHead], kind: HeadKind
) -> None:
    head = heads[kind].head
    scaling = Scaling.of(digits.train)
    rows = scaling.apply(digits.train)
    columns = rows if kind is HeadKind.RIDGE else projected(rows)
    indicators = np.eye(10)[[head.labels.index(label) for label in digits.labels]]
    theirs = Ridge(alpha=alpha_of(heads[kind], columns)).fit(columns.astype(np.float64), indicators)
    last = head.layers[-1]
    assert isinstance(last, Dense)
    ours = scaling.unfold(last)[:, :-1] if kind is HeadKind.RIDGE else last.weight.T
    np.testing.assert_allclose(ours, theirs.coef_, atol=1e-3 * np.abs(theirs.coef_).max())


@pytest.mark.parametrize("kind", KINDS)
def test_each_head_says_what_it_is(heads: dict[HeadKind, TrainedHead], kind: HeadKind) -> None:
    trained = heads[kind]
    n_layers = 1 if kind in LINEAR else 2
    assert (trained.kind, len(trained.head.layers)) == (kind, n_layers)
    assert isinstance(trained.head.layers[0], Projection) == (kind is HeadKind.PROJECTION)
    report = json.loads(json.dumps(trained.report, allow_nan=False))
    assert report["kind"] == kind.value
    assert [line["kind"] for line in report["comparison"]] == [kind.value]
    assert kind.value in report["choice"]


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_of_each_kind_can_be_trusted(
    digits: Digits, heads: dict[HeadKind, TrainedHead], kind: HeadKind
) -> None:
    trained = heads[kind]
    answers = apply(trained.head, digits.test)
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-5)
    gap = float(answers.max(axis=1).mean()) - accuracy(trained, digits.test, digits.truth)
    assert abs(gap) < 0.03
    found = trained.report["out_of_fold"]
    assert found["nll_after"] <= found["nll_before"]


@pytest.mark.parametrize("kind", KINDS)
def test_out_of_fold_answers_are_the_calibrated_ones(
    heads: dict[HeadKind, TrainedHead], kind: HeadKind
) -> None:
    trained = heads[kind]
    found = trained.out_of_fold
    np.testing.assert_array_equal(found.images, np.arange(500))
    assert found.accuracy == pytest.approx(trained.report["cv_accuracy"])
    of_truth = found.probabilities[np.arange(500), found.targets].astype(np.float64)
    assert float(-np.log(of_truth).mean()) == pytest.approx(
        trained.report["out_of_fold"]["nll_after"], rel=1e-3
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_examples_give_the_same_head(kind: HeadKind) -> None:
    rows, labels = noise(80, 30)
    one, other = (train(Examples.of(rows, labels), TAPS, kinds=[kind], seed=3).head for _ in range(2))
    np.testing.assert_array_equal(logits(one, rows), logits(other, rows))
    assert one.temperature == other.temperature


@pytest.mark.parametrize("method", [one for one in METHODS if one.kind is not HeadKind.MLP])
def test_torch_finds_the_head_that_numpy_finds(digits: Digits, method: Method) -> None:
    rows = Scaling.of(digits.train).apply(digits.train)
    examples = digits.examples
    lesson = lesson_of(examples, rows, np.ones(10, np.float32))
    exam = exam_of(examples, lesson, plan_folds(examples.targets, 10, 64, np.random.default_rng(0)))
    scaling = Scaling.of(digits.train)
    answers = []
    for engine in (NumpyEngine(), TorchEngine("cpu")):
        place = Workplace(engine)
        attempt = method.examine(exam, place)
        layers = method.fit(lesson, attempt, scaling, place, None).layers
        answers.append(apply(Head(examples.names, TAPS, layers, temperature=0.2), digits.test))
    np.testing.assert_allclose(answers[1], answers[0], atol=0.02)


# -- views, groups, weights


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_fit_is_asked_about_it_has_not_seen_not_even_as_a_view(kind: HeadKind) -> None:
    """Noise cannot be told better than by lot, unless a copy of the row was among those learnt."""
    rows, labels = noise()
    views_of = [*range(160), *range(0, 160, 2)]
    examples = Examples.of(rows, labels, views=rows[views_of], views_of=views_of)
    trained = train(examples, TAPS, kinds=[kind])
    assert trained.report["cv_accuracy"] == pytest.approx(0.5, abs=0.15)
    np.testing.assert_array_equal(trained.out_of_fold.images, np.arange(160))


@pytest.mark.parametrize("kind", KINDS)
def test_near_duplicates_share_a_fold(kind: HeadKind) -> None:
    rows, labels = noise(100)
    twice, names = np.concatenate([rows, rows]), labels + labels
    groups = [*range(100), *range(100)]
    apart = train(Examples.of(twice, names, groups=groups), TAPS, kinds=[kind])
    assert apart.report["cv_accuracy"] == pytest.approx(0.5, abs=0.17)
    leaking = train(Examples.of(twice, names), TAPS, kinds=[kind])
    assert leaking.report["cv_accuracy"] > 0.75, "the set shows a leak where there is one"


@pytest.mark.parametrize("kind", QUICK)
def test_an_image_and_its_views_count_as_one_image(digits: Digits, kind: HeadKind) -> None:
    rows, labels = digits.train[:300], digits.labels[:300]
    views_of = [*range(300), *range(300)]
    alone = train(Examples.of(rows, labels), TAPS, kinds=[kind])
    copied = train(Examples.of(rows, labels, views=rows[views_of], views_of=views_of), TAPS, kinds=[kind])
    difference = np.abs(apply(copied.head, digits.test) - apply(alone.head, digits.test))
    assert float(difference.mean()) < 1e-3
    assert copied.report["n_views"] == 600


@pytest.mark.parametrize("kind", QUICK)
def test_a_rare_class_is_raised(kind: HeadKind) -> None:
    random = np.random.default_rng(0)
    many, few = random.normal(0, 1, (400, 4)), random.normal(1, 1, (20, 4))
    rows = np.concatenate([many, few]).astype(np.float32)
    trained = train(Examples.of(rows, ["many"] * 400 + ["rare"] * 20), TAPS, kinds=[kind])
    test = random.normal(1, 1, (500, 4)).astype(np.float32)
    even = LogisticRegression().fit(rows, ["many"] * 400 + ["rare"] * 20)
    assert trained.report["class_weights"] == {"rare": pytest.approx(400 / 20 / 3)}
    assert accuracy(trained, test, ["rare"] * 500) > float(even.score(test, ["rare"] * 500)) + 0.1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "counts",
    [
        pytest.param({"a": 1, "b": 1}, id="one image each"),
        pytest.param({"a": 1, "b": 30}, id="a single image beside many"),
        pytest.param({"a": 20, "b": 20, "c": 2}, id="a tiny class"),
    ],
)
def test_any_sizes_give_a_working_head(kind: HeadKind, counts: dict[str, int]) -> None:
    random = np.random.default_rng(0)
    labels = [label for label, n in counts.items() for _ in range(n)]
    rows = 4 * random.normal(size=(3, 12))[["abc".index(label) for label in labels]]
    rows = (rows + random.normal(0, 0.3, rows.shape)).astype(np.float32)
    trained = train(Examples.of(rows, labels), TAPS, kinds=[kind])
    answers = apply(trained.head, rows)
    assert np.isfinite(answers).all()
    # A network that has seen one image of a class may not know it again: it stops early.
    assert accuracy(trained, rows, labels) >= (0.95 if kind is HeadKind.MLP else 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_column_is_enough(kind: HeadKind) -> None:
    rows = np.array([[1.0], [3.0], [5.0]], np.float32)
    trained = train(Examples.of(rows, ["low", "high", "high"]), TAPS, kinds=[kind])
    assert np.isfinite(apply(trained.head, rows)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_equal_rows_give_the_shares_of_the_classes(kind: HeadKind) -> None:
    rows = np.ones((80, 8), np.float32)
    trained = train(Examples.of(rows, (["a"] * 3 + ["b"]) * 20), TAPS, kinds=[kind])
    np.testing.assert_allclose(apply(trained.head, rows[:1]), [[0.75, 0.25]], atol=0.1)


# -- cancel and progress


@pytest.mark.parametrize("kind", KINDS)
def test_a_cancel_ends_each_kind(kind: HeadKind) -> None:
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    rows, labels = noise(60, 20)
    with pytest.raises(TrainingCancelled):
        train(Examples.of(rows, labels), TAPS, kinds=[kind], cancelled=cancelled)
    assert asked == 4


def test_no_kind_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="kind"):
        train(Examples.of(*noise(10, 4)), TAPS, kinds=[])


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_the_cpu_does_the_work() -> None:
    trained = train(Examples.of(*noise(20, 4)), TAPS, device="cuda")
    assert trained.report["device"] == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_finds_a_head_as_good(
    digits: Digits, heads: dict[HeadKind, TrainedHead], kind: HeadKind
) -> None:
    trained = train(digits.examples, TAPS, kinds=[kind], device="cuda")
    assert trained.report["device"] == "cuda"
    theirs = accuracy(heads[kind], digits.test, digits.truth)
    assert accuracy(trained, digits.test, digits.truth) == pytest.approx(theirs, abs=0.01)
