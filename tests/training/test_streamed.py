"""Training from rows that stay where they are: about the same heads, a few passes, little memory."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.support_training import TAPS, Digits, accuracy, noise, some_digits
from tests.training.test_instant import Countingly
from tlserve.core.errors import NonFiniteRow
from tlserve.core.head import apply, novelty_scores
from tlserve.core.plan import HeadKind
from tlserve.training import ArrayRows, StreamedExamples, TrainedHead, TrainingCancelled, train
from tlserve.training.streamed import train_streamed

LINEAR = [HeadKind.SOFTMAX, HeadKind.OVR, HeadKind.SVM, HeadKind.RIDGE]


@pytest.fixture(scope="module")
def digits() -> Digits:
    return some_digits(1_000)


def streamed(digits: Digits, *kinds: HeadKind, **more: Any) -> TrainedHead:
    examples = StreamedExamples.of(ArrayRows(digits.train), digits.labels)
    return train_streamed(examples, TAPS, kinds=kinds, **more)


def test_rows_that_fit_into_memory_give_the_head_that_they_always_gave(digits: Digits) -> None:
    from_source = train(StreamedExamples.of(ArrayRows(digits.train), digits.labels), TAPS).head
    np.testing.assert_array_equal(
        from_source.layers[0].weight, train(digits.examples, TAPS).head.layers[0].weight
    )


def test_from_a_gigabyte_on_rows_are_streamed() -> None:
    def fits(n_rows: int) -> bool:
        nothing = np.broadcast_to(np.float16(0), (n_rows, 1_280))
        return StreamedExamples.of(ArrayRows(nothing), ["a", "b"] * (n_rows // 2)).fits_memory

    assert fits(200_000)
    assert not fits(220_000)


@pytest.mark.parametrize("kind", LINEAR)
def test_a_streamed_head_is_as_good_as_one_from_memory(digits: Digits, kind: HeadKind) -> None:
    found, full = streamed(digits, kind), train(digits.examples, TAPS, kinds=[kind])
    assert found.kind is kind
    assert accuracy(found, digits.test, digits.truth) >= accuracy(full, digits.test, digits.truth) - 0.01
    assert np.abs(apply(found.head, digits.test) - apply(full.head, digits.test)).mean() < 0.02


def test_ridge_takes_one_pass_and_softmax_a_few(digits: Digits) -> None:
    for kind, most in ((HeadKind.RIDGE, 1), (HeadKind.SOFTMAX, 31)):
        source = Countingly(digits.train)
        trained = train_streamed(StreamedExamples.of(source, digits.labels), TAPS, kinds=[kind])
        assert trained.report["n_passes"] <= most
        # Beside the passes: rows to standardise by, and rows to choose C by.
        assert source.n_read <= (trained.report["n_passes"] + 2) * len(digits.train)


def test_kinds_that_need_all_rows_are_left_out_with_the_reason(digits: Digits) -> None:
    several = streamed(digits, HeadKind.SOFTMAX, HeadKind.RIDGE, HeadKind.PROJECTION, HeadKind.MLP)
    assert several.kind in (HeadKind.SOFTMAX, HeadKind.RIDGE)
    assert set(several.report["left_out"]) == {"projection", "mlp"}
    alone = streamed(digits, HeadKind.MLP)
    assert alone.kind is HeadKind.RIDGE
    assert "memory" in alone.report["left_out"]["mlp"]


def test_what_it_says_of_itself_rests_on_images_no_fit_had_seen() -> None:
    rows, labels = noise(600, 400)
    for kind in LINEAR:
        examples = StreamedExamples.of(ArrayRows(rows), labels)
        trained = train_streamed(examples, TAPS, kinds=[kind])
        assert trained.report["cv_accuracy"] == pytest.approx(0.5, abs=0.17)
        assert (np.diff(trained.out_of_fold.images) > 0).all()


def test_near_duplicates_are_on_one_side() -> None:
    rows, labels = noise(400, 300)
    twice = ArrayRows(np.concatenate([rows, rows]))
    groups = [*range(400), *range(400)]
    apart = train_streamed(
        StreamedExamples.of(twice, labels * 2, groups=groups), TAPS, kinds=[HeadKind.SOFTMAX]
    )
    assert apart.report["cv_accuracy"] == pytest.approx(0.5, abs=0.17)
    leaking = train_streamed(StreamedExamples.of(twice, labels * 2), TAPS, kinds=[HeadKind.SOFTMAX])
    assert leaking.report["cv_accuracy"] > 0.7, "the set shows a leak where there is one"


def test_the_same_rows_give_the_same_head(digits: Digits) -> None:
    one, other = (streamed(digits, HeadKind.SOFTMAX, seed=3).head for _ in range(2))
    np.testing.assert_array_equal(one.layers[0].weight, other.layers[0].weight)


def test_it_has_novelty_and_a_report_for_json(digits: Digits) -> None:
    trained = streamed(digits, HeadKind.RIDGE, held_out_rows_for_novelty=digits.test)
    assert novelty_scores(trained.head, digits.test).mean() == pytest.approx(0.5, abs=0.05)
    report = json.loads(json.dumps(trained.report, allow_nan=False))
    assert (report["streamed"], report["n_train"], report["warm"]) == (True, 1_000, False)


def test_progress_rises_to_its_total_and_a_cancel_ends_it(digits: Digits) -> None:
    told: list[tuple[int, int]] = []
    streamed(digits, HeadKind.SOFTMAX, on_progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]
    assert len({total for _, total in told}) == 1
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > 6

    with pytest.raises(TrainingCancelled):
        streamed(digits, HeadKind.SOFTMAX, cancelled=cancelled)


def test_rows_with_nan_and_rows_that_do_not_match_are_refused() -> None:
    rows, labels = noise(40, 5)
    with pytest.raises(ValueError, match="39 rows"):
        StreamedExamples.of(ArrayRows(rows[1:]), labels)
    rows[7, 3] = np.nan
    with pytest.raises(NonFiniteRow):
        train_streamed(StreamedExamples.of(ArrayRows(rows), labels), TAPS, kinds=[HeadKind.RIDGE])


def test_memory_hangs_little_on_how_many_rows_there_are(tmp_path: Path) -> None:
    """40,000 rows from a mapped file take less than twice what 10,000 take, and less than all rows would."""
    rows, labels = noise(40_000, 512)
    np.save(tmp_path / "rows.npy", rows.astype(np.float16))
    del rows
    peaks = []
    for n in (10_000, 40_000):
        source = ArrayRows(np.load(tmp_path / "rows.npy", mmap_mode="r")[:n])
        tracemalloc.start()
        train_streamed(StreamedExamples.of(source, labels[:n]), TAPS, kinds=[HeadKind.RIDGE])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 4 * 512 * 40_000 * 3
    assert peaks[1] < 4 * peaks[0]
