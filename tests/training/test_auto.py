"""`head = "auto"`: several kinds on the same folds, the simplest of the best, and why."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.training.support_training import TAPS, accuracy, entry, noise, some_digits
from tlserve.core.plan import HeadKind
from tlserve.training import Examples, train
from tlserve.training.compare import Entry, choose
from tlserve.training.fit import METHODS

QUICK = [kind for kind in HeadKind if kind is not HeadKind.MLP]


def ring(n: int, seed: int = 0) -> tuple[Any, list[str]]:
    """A ball within a shell: no straight line parts them."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(n, 6))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    inside = np.arange(n) % 2 == 0
    rows *= np.where(inside, 1.0, 2.0)[:, None]
    return rows.astype(np.float32), ["ball" if one else "shell" for one in inside]


def chosen(entries: Sequence[Entry]) -> HeadKind:
    return choose(entries, np.zeros(200, dtype=np.intp)).entry.kind


def test_of_two_that_do_equally_well_the_simpler_is_taken() -> None:
    choice = choose(
        [entry(HeadKind.SOFTMAX, 21), entry(HeadKind.RIDGE, 20, first=10), entry(HeadKind.PROJECTION, 21)],
        np.zeros(200, dtype=np.intp),
    )
    assert choice.entry.kind is HeadKind.SOFTMAX
    assert "89.5 %" in choice.sentence
    assert "ridge 90.0 %" in choice.sentence
    assert choice.why_not[HeadKind.RIDGE].startswith("no better beyond chance: +0.5 points")


def test_a_kind_that_is_clearly_better_is_taken() -> None:
    entries = [entry(HeadKind.SOFTMAX, 40), entry(HeadKind.SVM, 30), entry(HeadKind.PROJECTION, 10)]
    choice = choose(entries, np.zeros(200, dtype=np.intp))
    assert choice.entry.kind is HeadKind.PROJECTION
    assert choice.sentence.startswith("projection did best of 3 kinds: 95.0 %")
    assert choice.why_not[HeadKind.SOFTMAX].startswith("worse: -15.0 points")


def test_a_less_simple_kind_has_to_be_right_more_often() -> None:
    unsure, sure = entry(HeadKind.SOFTMAX, 20, confidence=1e-4), entry(HeadKind.MLP, 21)
    choice = choose([unsure, sure], np.zeros(200, dtype=np.intp))
    assert choice.entry.kind is HeadKind.SOFTMAX
    assert "mlp 89.5 %, no more" in choice.sentence


def test_of_two_that_are_about_as_often_right_the_better_probabilities_decide() -> None:
    unsure, sure = entry(HeadKind.SOFTMAX, 21, confidence=1e-4), entry(HeadKind.RIDGE, 20, first=10)
    assert chosen([unsure, sure]) is HeadKind.RIDGE


def test_a_kind_that_was_left_out_is_never_chosen() -> None:
    out = Entry(HeadKind.SOFTMAX, METHODS[0], None, left_out="left out: too dear")
    assert chosen([out, entry(HeadKind.RIDGE, 100)]) is HeadKind.RIDGE


def test_straight_lines_are_drawn_where_they_are_enough() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(0, 1, (200, 8)).astype(np.float32)
    labels = ["left" if row[0] + random.normal(0, 0.7) < 0 else "right" for row in rows]
    assert train(Examples.of(rows, labels), TAPS, kinds=QUICK).kind is HeadKind.SOFTMAX


def test_what_no_line_parts_is_told_by_a_bent_head() -> None:
    rows, labels = ring(240)
    trained = train(Examples.of(rows, labels), TAPS, kinds=list(HeadKind))
    assert trained.kind is HeadKind.PROJECTION
    test, truth = ring(400, seed=1)
    assert accuracy(trained, test, truth) > 0.9
    assert accuracy(train(Examples.of(rows, labels), TAPS), test, truth) < 0.7


def test_the_report_compares_all_kinds() -> None:
    digits = some_digits(300)
    trained = train(digits.examples, TAPS, kinds=QUICK)
    report = json.loads(json.dumps(trained.report, allow_nan=False))
    assert [line["kind"] for line in report["comparison"]] == [kind.value for kind in QUICK]
    for line in report["comparison"]:
        assert line["cv_accuracy"] > 0.8
        assert {"nll", "ece", "seconds", "setting"} <= set(line)
        assert line["chosen"] == (line["kind"] == report["kind"])
        assert bool(line["why_not"]) != line["chosen"]
    of_chosen = next(line for line in report["comparison"] if line["chosen"])
    assert of_chosen["cv_accuracy"] == report["cv_accuracy"] == pytest.approx(trained.out_of_fold.accuracy)
    assert report["kind"] in report["choice"]
    assert len(report["choice"].splitlines()) == 1


def test_all_kinds_are_asked_about_the_same_images() -> None:
    """A choice among kinds does not change what one of them says of itself."""
    digits = some_digits(300)
    alone = train(digits.examples, TAPS, kinds=[HeadKind.RIDGE]).report
    among = train(digits.examples, TAPS, kinds=QUICK).report["comparison"]
    of_ridge = next(line for line in among if line["kind"] == "ridge")
    assert of_ridge["cv_accuracy"] == alone["cv_accuracy"]
    assert of_ridge["nll"] == alone["out_of_fold"]["nll_after"]


@pytest.mark.parametrize(
    ("n", "n_features", "reason"),
    [
        (60, 20, "left out: from 1,000 images on"),
        (1_200, 3_000, "left out: it takes 1.1 times"),
        (1_200, 30, "left out: without a GPU each drop would wait for it"),
    ],
)
def test_what_is_not_worth_its_time_is_left_out_with_the_reason(n: int, n_features: int, reason: str) -> None:
    examples = Examples.of(*noise(n, n_features))
    report = train(examples, TAPS, kinds=[HeadKind.RIDGE, HeadKind.MLP]).report
    (_, mlp) = report["comparison"]
    assert mlp["why_not"].startswith(reason)
    assert "cv_accuracy" not in mlp


def test_a_kind_that_is_asked_for_alone_is_made_whatever_it_takes() -> None:
    assert train(Examples.of(*noise(60, 20)), TAPS, kinds=[HeadKind.MLP]).kind is HeadKind.MLP


def test_progress_over_several_kinds_rises_to_one_total() -> None:
    told: list[tuple[int, int]] = []
    rows, labels = noise(60, 20)
    train(
        Examples.of(rows, labels),
        TAPS,
        kinds=QUICK,
        mixup=True,
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert told == sorted(told)
    assert told[0][0] == 0
    assert told[-1][0] == told[-1][1]
    assert len({total for _, total in told}) == 1


def test_a_softmax_head_needs_neither_torch_nor_scikit_learn() -> None:
    """Loading torch takes longer than the fit: it must not stand between a drop and the first answer."""
    code = (
        "import sys, numpy as np\n"
        "from tlserve.training import Examples, train\n"
        "from tlserve.core.plan import HeadKind\n"
        "rows = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)\n"
        "kinds = [kind for kind in HeadKind if kind is not HeadKind.MLP]\n"
        "train(Examples.of(rows, ['a', 'b'] * 20), ('features',), kinds=kinds, mixup=True)\n"
        "print(sorted({'torch', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
