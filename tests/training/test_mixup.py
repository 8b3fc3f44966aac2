"""Mixtures of rows: what they are worth, who may see them, and when they are kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.training.support_training import TAPS, entry, noise, some_digits
from tlserve.core.head import logits
from tlserve.core.plan import HeadKind
from tlserve.training import Examples, train
from tlserve.training.compare import gains, too_dear
from tlserve.training.engine import Fits, NumpyEngine, scores
from tlserve.training.folds import plan_folds
from tlserve.training.lesson import Exam, Lesson, exam_of, lesson_of
from tlserve.training.method import Workplace
from tlserve.training.mixup import exam_with_mixtures, lesson_with_mixtures
from tlserve.training.ridge import PROJECTION, RIDGE


def some_lesson(n: int = 30) -> Lesson:
    rows = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)
    return Lesson(rows, np.arange(n) % 3, np.ones(n, np.float32), 3)


def mixtures(lesson: Lesson, n: int) -> tuple[Any, Any, Any]:
    """Both copies of each mixture behind the first n rows: rows (2, m, f), targets and weights (2, m)."""
    rows = lesson.rows[n:].reshape(2, -1, lesson.rows.shape[1])
    return rows, lesson.targets[n:].reshape(2, -1), lesson.weights[n:].reshape(2, -1)


def test_a_mixture_lies_between_two_rows_and_counts_for_both_classes() -> None:
    lesson = some_lesson()
    rows, targets, weights = mixtures(lesson_with_mixtures(lesson, seed=1), 30)
    np.testing.assert_array_equal(rows[0], rows[1])
    np.testing.assert_array_equal(targets[0], lesson.targets)
    np.testing.assert_allclose(weights.sum(axis=0), 1, atol=1e-5)
    partners = (rows[0] - weights[0][:, None] * lesson.rows) / np.maximum(weights[1], 1e-3)[:, None]
    for partner, target in zip(partners[weights[1] > 0.05], targets[1][weights[1] > 0.05], strict=True):
        nearest = int(np.abs(lesson.rows - partner).sum(axis=1).argmin())
        np.testing.assert_allclose(lesson.rows[nearest], partner, atol=1e-3)
        assert lesson.targets[nearest] == target


def test_two_weighted_copies_are_worth_a_soft_target() -> None:
    rows, targets, weights = mixtures(lesson_with_mixtures(some_lesson(), seed=1), 30)
    point = np.random.default_rng(2).normal(size=(1, 3, 5)).astype(np.float32)
    twice = Fits(rows.reshape(60, 4), targets.ravel(), weights.reshape(1, 60), 3)
    ours, _ = NumpyEngine().data_loss(twice, point)
    soft = sum(np.eye(3)[targets[i]] * weights[i][:, None] for i in range(2))
    found = scores(point, rows[0])[0].T.astype(np.float64)
    log_odds = found - np.log(np.exp(found).sum(axis=1, keepdims=True))
    assert ours == pytest.approx(-float((soft * log_odds).sum()), rel=1e-5)


def some_exam() -> Exam:
    rows, labels = noise(60, 10)
    examples = Examples.of(rows, labels)
    lesson = lesson_of(examples, rows, np.ones(2, np.float32))
    plan = plan_folds(examples.targets, 2, 10, np.random.default_rng(0))
    return exam_of(examples, lesson, plan)


def test_a_mixture_is_of_two_rows_of_one_fold_and_nobody_is_asked_about_it() -> None:
    exam = some_exam()
    mixed = exam_with_mixtures(exam, seed=0)
    np.testing.assert_array_equal(mixed.asked, exam.asked)
    rows, _, weights = mixtures(mixed.lesson, 60)
    fold_of = mixed.fold_of[60:].reshape(2, -1)
    np.testing.assert_array_equal(fold_of[0], fold_of[1])
    np.testing.assert_array_equal(fold_of[0], exam.fold_of)
    clear = (weights[1] > 0.05) & (weights[0] > 0.05)
    partners = (rows[0] - weights[0][:, None] * exam.lesson.rows)[clear] / weights[1][clear][:, None]
    for partner, fold in zip(partners, fold_of[0][clear], strict=True):
        nearest = int(np.abs(exam.lesson.rows - partner).sum(axis=1).argmin())
        assert exam.fold_of[nearest] == fold


@pytest.mark.parametrize("kind", [HeadKind.SOFTMAX, HeadKind.RIDGE])
def test_mixtures_do_not_give_away_the_answers(kind: HeadKind) -> None:
    rows, labels = noise()
    trained = train(Examples.of(rows, labels), TAPS, kinds=[kind], mixup=True)
    assert trained.report["cv_accuracy"] == pytest.approx(0.5, abs=0.15)


def test_the_report_says_what_mixtures_gave_and_they_are_dropped_where_that_is_nothing() -> None:
    digits = some_digits(300)
    plain = train(digits.examples, TAPS, kinds=[HeadKind.SOFTMAX])
    mixed = train(digits.examples, TAPS, kinds=[HeadKind.SOFTMAX], mixup=True)
    assert plain.report["mixup"] is None
    facts = mixed.report["mixup"]
    assert set(facts) == {"kept", "reason", "accuracy_gain", "nll_gain", "seconds"}
    assert facts["reason"].startswith("mixtures of two images gave ")
    same = np.array_equal(logits(plain.head, digits.test), logits(mixed.head, digits.test))
    assert same == (not facts["kept"])
    gained = mixed.report["cv_accuracy"] - plain.report["cv_accuracy"]
    assert gained == pytest.approx(facts["accuracy_gain"] if facts["kept"] else 0)


def test_mixtures_that_would_take_too_long_are_not_tried() -> None:
    rows = np.zeros((2_500, 200), np.float32)
    lesson = Lesson(rows, np.arange(2_500) % 2, np.ones(2_500, np.float32), 2)
    own = np.arange(2_500)
    exam = Exam(lesson, own % 5, 5, own, own)
    mixed = exam_with_mixtures(exam, seed=0)
    place = Workplace(NumpyEngine())
    assert too_dear(PROJECTION, exam, lesson, place) == ""
    assert too_dear(PROJECTION, mixed, mixed.lesson, place).startswith("it takes 1.")
    assert too_dear(RIDGE, mixed, mixed.lesson, place) == ""


def test_mixtures_are_kept_only_where_they_help_beyond_chance() -> None:
    truth = np.zeros(200, dtype=np.intp)

    def after(n_wrong: int) -> bool:
        attempts = [entry(HeadKind.SOFTMAX, n).attempt for n in (40, n_wrong)]
        before, mixed = (attempt for attempt in attempts if attempt is not None)
        return gains(before, mixed, truth)

    assert [after(n_wrong) for n_wrong in (50, 40, 39, 20)] == [False, False, False, True]
