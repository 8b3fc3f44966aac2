"""The numbers of a report: the same as scikit-learn's, honest where nothing can be said, ready for JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
)

from tlserve.core.judge import Answers, wilson_interval
from tlserve.core.scores import hardest, score, score_columns

LABELS = ("daisy", "roses", "tulips")


def answered(n_images: int, *, calibrated: bool = True, seed: int = 0) -> tuple[list[str], Answers]:
    """Answers whose stated probabilities are true, or three times as sure as they should be."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1.5, (n_images, 3))
    odds = np.exp(logits)
    truth = [LABELS[random.choice(3, p=row / row.sum())] for row in odds]
    said = odds if calibrated else odds**3
    return truth, Answers(LABELS, (said / said.sum(axis=1, keepdims=True)).astype(np.float32))


@pytest.fixture
def case() -> tuple[list[str], Answers]:
    return answered(400)


def called(answers: Answers) -> list[str]:
    return [answers.labels[column] for column in answers.probabilities.argmax(axis=1)]


def test_each_class_scores_as_scikit_learn_has_it(case: tuple[list[str], Answers]) -> None:
    truth, answers = case
    found = score(truth, answers)
    expected: Any = precision_recall_fscore_support(truth, called(answers), labels=LABELS)
    for position, one in enumerate(found.classes):
        assert one.label == LABELS[position]
        mine = (one.precision, one.recall, one.f1, one.support)
        assert mine == pytest.approx([column[position] for column in expected])
    assert found.macro_f1 == pytest.approx(f1_score(truth, called(answers), average="macro"))


def test_the_whole_scores_as_scikit_learn_has_it(case: tuple[list[str], Answers]) -> None:
    truth, answers = case
    found = score(truth, answers)
    assert found.accuracy == pytest.approx(accuracy_score(truth, called(answers)))
    assert found.confusion is not None
    np.testing.assert_array_equal(found.confusion, confusion_matrix(truth, called(answers), labels=LABELS))
    probabilities = answers.probabilities.astype(np.float64)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    assert found.nll == pytest.approx(log_loss(truth, probabilities, labels=LABELS), abs=1e-6)
    own = np.array([[label == one for label in LABELS] for one in truth])
    by_class = sum(brier_score_loss(own[:, c], probabilities[:, c]) for c in range(3))
    assert found.brier == pytest.approx(by_class, abs=1e-6)


def test_the_interval_is_wilsons(case: tuple[list[str], Answers]) -> None:
    truth, answers = case
    found = score(truth, answers)
    n_right = sum(a == b for a, b in zip(truth, called(answers), strict=True))
    assert (found.accuracy_low, found.accuracy_high) == wilson_interval(n_right, 400)


def test_the_commonest_mistake_comes_first() -> None:
    truth = ["daisy"] * 3 + ["roses"] * 3
    said = ["tulips", "tulips", "daisy", "daisy", "roses", "roses"]
    sure = np.array([[float(label == one) for label in LABELS] for one in said], dtype=np.float32)
    found = score(truth, Answers(LABELS, sure))
    assert [asdict(one) for one in found.confused] == [
        {"label": "daisy", "answer": "tulips", "count": 2},
        {"label": "roses", "answer": "daisy", "count": 1},
    ]


def test_the_bins_hold_every_image_once(case: tuple[list[str], Answers]) -> None:
    truth, answers = case
    found = score(truth, answers)
    assert len(found.reliability) == 15
    assert sum(one.count for one in found.reliability) == 400
    weighted = sum(one.count * (one.accuracy or 0) for one in found.reliability) / 400
    assert weighted == pytest.approx(found.accuracy)
    for one in found.reliability:
        assert (one.confidence is None) == (one.count == 0)
        if one.confidence is not None:
            assert one.lower - 1e-9 <= one.confidence <= one.upper + 1e-9


def test_a_confidence_of_one_is_in_the_last_bin() -> None:
    found = score(["daisy"], Answers(LABELS, np.array([[1, 0, 0]], dtype=np.float32)))
    assert found.reliability[-1].count == 1
    assert found.ece == 0


def test_chance_explains_the_error_of_a_calibrated_model_only() -> None:
    honest, boasting = (score(*answered(3000, calibrated=calibrated)) for calibrated in (True, False))
    assert honest.ece is not None and honest.ece_by_chance is not None
    assert boasting.ece is not None and boasting.ece_by_chance is not None
    assert honest.ece == pytest.approx(honest.ece_by_chance, abs=0.01)
    assert boasting.ece > boasting.ece_by_chance + 0.1


def test_chance_weighs_more_among_few_images() -> None:
    few, many = score(*answered(60)), score(*answered(6000))
    assert few.ece_by_chance is not None and many.ece_by_chance is not None
    assert few.ece_by_chance > 3 * many.ece_by_chance


def test_images_of_a_class_the_head_does_not_know_are_counted_and_left_out(
    case: tuple[list[str], Answers],
) -> None:
    truth, answers = case
    more = Answers(LABELS, np.concatenate([answers.probabilities, answers.probabilities[:2]]))
    found = score([*truth, "orchids", "orchids"], more)
    assert found.n_unknown_class == 2
    assert asdict(found) == {**asdict(score(truth, answers)), "n_unknown_class": 2}


def test_what_cannot_be_said_is_none() -> None:
    found = score(["orchids"], Answers(LABELS, np.array([[1, 0, 0]], dtype=np.float32)))
    assert (found.n_images, found.n_unknown_class) == (0, 1)
    assert {found.accuracy, found.accuracy_low, found.nll, found.brier, found.ece, found.macro_f1} == {None}
    assert {value for one in found.classes for value in (one.precision, one.recall, one.f1)} == {None}


def test_a_class_that_is_never_answered_has_a_recall_but_no_precision() -> None:
    found = score(["daisy", "roses"], Answers(LABELS, np.array([[1, 0, 0]] * 2, dtype=np.float32)))
    roses = found.classes[1]
    assert (roses.precision, roses.recall, roses.f1, roses.support) == (None, 0, 0, 1)


def test_of_very_many_classes_the_mistakes_are_told_and_no_matrix() -> None:
    labels = tuple(f"{n:03}" for n in range(300))
    found = score(["007", "008"], Answers(labels, np.eye(300, dtype=np.float32)[[9, 8]]))
    assert found.confusion is None
    assert [(one.label, one.answer) for one in found.confused] == [("007", "009")]


def test_scores_are_ready_for_json(case: tuple[list[str], Answers]) -> None:
    found = asdict(score(*case))
    assert json.loads(json.dumps(found, allow_nan=False))["accuracy"] == found["accuracy"]


def test_columns_serve_as_well_as_labels(case: tuple[list[str], Answers]) -> None:
    truth, answers = case
    columns = np.array([LABELS.index(label) for label in truth])
    assert score_columns(columns, answers) == score(truth, answers)


def test_unequal_lengths_are_refused(case: tuple[list[str], Answers]) -> None:
    truth, answers = case
    with pytest.raises(ValueError, match="399 images, but 400 answers"):
        score(truth[1:], answers)


def test_the_hardest_image_comes_first() -> None:
    probabilities = np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.2, 0.7, 0.1], [1, 0, 0]], np.float32)
    columns = np.array([0, 1, 0, -1])
    found = hardest(columns, Answers(LABELS, probabilities), most=2)
    assert [one.position for one in found] == [1, 2]
    first = asdict(found[0])
    assert (first["label"], first["answer"]) == ("roses", "tulips")
    assert (first["probability"], first["confidence"]) == pytest.approx((0.1, 0.8))
    assert len(hardest(columns, Answers(LABELS, probabilities), most=50)) == 3
