"""The head for now: good at once, the same whichever way it came about, and honest about itself."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.training.support_training import TAPS, Digits, accuracy, noise, some_digits
from tlserve.core.errors import NonFiniteRow
from tlserve.core.head import Head, apply, novelty_scores
from tlserve.core.plan import HeadKind
from tlserve.training import ArrayRows, Examples, InstantState, TrainedHead, TrainingCancelled, train


class Countingly:
    """Rows that tell how many of them were read."""

    def __init__(self, rows: Any) -> None:
        self.rows, self.n_read = rows, 0

    @property
    def n_features(self) -> int:
        return int(self.rows.shape[1])

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, places: Any) -> Any:
        found = self.rows[places]
        self.n_read += len(found)
        return found


def named(labels: list[str], first: int = 0) -> list[tuple[str, str]]:
    return [(f"{n:064x}", label) for n, label in enumerate(labels, first)]


def state_of(rows: Any, labels: list[str], **more: Any) -> InstantState:
    return InstantState.build(ArrayRows(rows), named(labels), TAPS, snapshot_id="first", **more)


def ridge_of(state: InstantState, **more: Any) -> TrainedHead:
    return state.fit(state.names, 10.0, **more)


@pytest.fixture(scope="module")
def digits() -> Digits:
    return some_digits(900)


@pytest.fixture(scope="module")
def live(digits: Digits) -> TrainedHead:
    part = Examples.of(digits.train[:880], digits.labels[:880])
    return train(part, TAPS, held_out_rows_for_novelty=digits.test)


# -- how good it is


@pytest.mark.parametrize("kept_bytes", [0, 10**9], ids=["rows on the disk", "rows in memory"])
def test_ridge_is_as_good_as_that_of_the_full_recipe(digits: Digits, kept_bytes: int) -> None:
    found = ridge_of(state_of(digits.train, digits.labels, kept_bytes=kept_bytes))
    full = train(digits.examples, TAPS, kinds=[HeadKind.RIDGE])
    assert found.kind is HeadKind.RIDGE
    assert accuracy(found, digits.test, digits.truth) >= accuracy(full, digits.test, digits.truth) - 0.01


def test_with_rows_in_memory_the_live_head_is_fitted_anew(digits: Digits, live: TrainedHead) -> None:
    state = state_of(digits.train, digits.labels)
    found = state.fit(state.names, 30.0, live.head, warm_setting=live.report["C"])
    full = train(digits.examples, TAPS)
    assert [line["kind"] for line in found.report["comparison"]] == ["softmax", "ridge"]
    assert accuracy(found, digits.test, digits.truth) >= accuracy(full, digits.test, digits.truth) - 0.01
    assert found.kind is HeadKind.RIDGE or found.report["warm"]


def test_without_time_ridge_it_is_and_the_report_says_so(digits: Digits, live: TrainedHead) -> None:
    state = state_of(digits.train, digits.labels)
    found = state.fit(state.names, 0.0, live.head)
    assert found.kind is HeadKind.RIDGE
    assert "s left" in found.report["refit"]
    assert found.report["comparison"][0]["why_not"].startswith("left out")


@pytest.mark.parametrize("kind", [HeadKind.OVR, HeadKind.SVM])
def test_other_linear_heads_begin_where_they_stand(digits: Digits, kind: HeadKind) -> None:
    live = train(Examples.of(digits.train[:880], digits.labels[:880]), TAPS, kinds=[kind])
    state = state_of(digits.train, digits.labels)
    found = state.fit(state.names, 30.0, live.head, warm_kind=kind, warm_setting=live.report["C"])
    assert found.kind in (kind, HeadKind.RIDGE)
    assert kind.value in [line["kind"] for line in found.report["comparison"]]
    assert accuracy(found, digits.test, digits.truth) > 0.93


def test_a_kind_that_cannot_begin_elsewhere_gives_way_to_ridge(digits: Digits, live: TrainedHead) -> None:
    state = state_of(digits.train, digits.labels)
    found = state.fit(state.names, 30.0, live.head, warm_kind=HeadKind.MLP)
    assert found.kind is HeadKind.RIDGE
    assert "mlp" in found.report["refit"]


# -- the same whichever way


@pytest.mark.parametrize("n_features", [64, 2_000], ids=["more rows than columns", "fewer"])
def test_updates_lead_where_a_build_leads(digits: Digits, n_features: int) -> None:
    turn = np.random.default_rng(0).normal(size=(64, n_features)).astype(np.float32)
    rows, test = digits.train @ turn, digits.test @ turn
    state = state_of(rows[:700], digits.labels[:700])
    ridge_of(state)
    state.update(named(digits.labels[700:], 700), [], ArrayRows(rows[700:]), snapshot_id="second")
    gone = np.arange(0, 60)
    state.update([], [named(digits.labels)[at] for at in gone], ArrayRows(rows[gone]), snapshot_id="third")
    state.update(named(digits.labels)[:60], [], ArrayRows(rows[:60]), snapshot_id="fourth")
    assert (state.n_images, state.snapshot_id) == (900, "fourth")
    anew = apply(ridge_of(state_of(rows, digits.labels)).head, test)
    assert np.abs(apply(ridge_of(state).head, test) - anew).mean() < 0.02


def test_a_relabelled_image_is_taken_out_and_put_in(digits: Digits) -> None:
    wrong = ["digit 1" if label == "digit 7" else label for label in digits.labels[:60]] + digits.labels[60:]
    state = state_of(digits.train, wrong)
    changed = [at for at in range(900) if wrong[at] != digits.labels[at]]
    assert changed
    rows = digits.train[changed]
    state.update(
        [named(digits.labels)[at] for at in changed],
        [named(wrong)[at] for at in changed],
        ArrayRows(np.concatenate([rows, rows])),
        snapshot_id="second",
    )
    right = ridge_of(state_of(digits.train, digits.labels))
    difference = apply(ridge_of(state).head, digits.test) - apply(right.head, digits.test)
    assert np.abs(difference).mean() < 0.02


def test_classes_come_and_go_between_fits(digits: Digits, live: TrainedHead) -> None:
    old = [at for at, label in enumerate(digits.labels) if label != "digit 9"]
    new = [at for at, label in enumerate(digits.labels) if label == "digit 9"][:20]
    images = named(digits.labels)
    state = InstantState.build(
        ArrayRows(digits.train[old]), [images[at] for at in old], TAPS, snapshot_id="1"
    )
    first = state.fit(state.names, 30.0, live.head)
    assert "digit 9" not in first.head.labels
    state.update([images[at] for at in new], [], ArrayRows(digits.train[new]), snapshot_id="2")
    second = state.fit(state.names, 30.0, first.head)
    nines = [at for at, label in enumerate(digits.truth) if label == "digit 9"]
    assert accuracy(second, digits.test[nines], ["digit 9"] * len(nines)) > 0.6
    state.update([], [images[at] for at in new], ArrayRows(digits.train[new]), snapshot_id="3")
    third = state.fit(state.names, 30.0, second.head)
    assert third.head.labels == first.head.labels
    difference = apply(third.head, digits.test) - apply(first.head, digits.test)
    assert np.abs(difference).mean() < 0.02


def test_an_update_reads_what_changed_and_a_fit_nothing(digits: Digits) -> None:
    source = Countingly(digits.train[:880])
    state = InstantState.build(source, named(digits.labels[:880]), TAPS, snapshot_id="1", kept_bytes=0)
    at_build = source.n_read
    change = Countingly(digits.train[[*range(880, 890), *range(870, 880)]])
    images = named(digits.labels)
    state.update(images[880:890], images[870:880], change, snapshot_id="2")
    ridge_of(state)
    assert at_build <= 2 * 880
    assert (source.n_read, change.n_read) == (at_build, 20)


def test_a_state_of_many_rows_does_not_keep_them() -> None:
    rows, labels = noise(4_000, 40)
    small = state_of(rows[:1_000], labels[:1_000], kept_bytes=0)
    large = state_of(np.tile(rows, (10, 1)), labels * 10, kept_bytes=0)
    assert len(large.validating_digests) <= 2_100
    assert large.nbytes < small.nbytes + 2_000 * (4 * 40 + 260)


# -- honest


def test_what_it_says_of_itself_rests_on_images_no_fit_had_seen() -> None:
    """Noise cannot be told better than by lot."""
    rows, labels = noise(600, 400)
    state = state_of(rows, labels)
    # It has learnt them by heart, those that validate too.
    live = train(Examples.of(rows, labels), TAPS)
    for _ in range(3):
        found = state.fit(state.names, 30.0, live.head)
        assert found.report["cv_accuracy"] == pytest.approx(0.5, abs=0.17)
        assert all(line["cv_accuracy"] < 0.67 for line in found.report["comparison"])
        live = found


def test_near_duplicates_are_on_one_side() -> None:
    rows, labels = noise(400, 300)
    twice, groups = np.concatenate([rows, rows]), [str(n % 400) for n in range(800)]
    apart = ridge_of(state_of(twice, labels * 2, groups=groups))
    assert apart.report["cv_accuracy"] == pytest.approx(0.5, abs=0.17)
    leaking = ridge_of(state_of(twice, labels * 2))
    assert leaking.report["cv_accuracy"] > 0.7, "the set shows a leak where there is one"


def test_the_images_that_validate_stay_the_same_ones(digits: Digits) -> None:
    state = state_of(digits.train[:880], digits.labels[:880])
    before = set(state.validating_digests)
    state.update(named(digits.labels[880:], 880), [], ArrayRows(digits.train[880:]), snapshot_id="2")
    after = set(state.validating_digests)
    assert before <= after
    assert 0.1 < len(after) / 900 < 0.3
    known = dict(named(digits.labels))
    assert {known[digest] for digest in after} == set(digits.labels)


def test_answers_of_images_left_out_are_told_by_their_place(digits: Digits) -> None:
    state = state_of(digits.train, digits.labels)
    places = {digest: 899 - at for at, (digest, _) in enumerate(named(digits.labels))}
    found = ridge_of(state, places=places).out_of_fold
    assert (np.diff(found.images) > 0).all()
    labels = np.array(state.names)[found.targets]
    assert labels.tolist() == [digits.labels[899 - at] for at in found.images]
    assert found.accuracy > 0.9


def test_the_report_is_ready_for_json(digits: Digits, live: TrainedHead) -> None:
    state = state_of(digits.train, digits.labels)
    report = state.fit(state.names, 30.0, live.head).report
    told = json.loads(json.dumps(report, allow_nan=False))
    assert (told["instant"], told["n_train"], told["n_features"]) == (True, 900, 64)
    assert told["n_validating"] == len(state.validating_digests)
    assert told["seconds"] > 0


# -- novelty


def test_novelty_is_a_rank_among_held_out_images(digits: Digits, live: TrainedHead) -> None:
    state = state_of(digits.train, digits.labels)
    half = len(digits.test) // 2
    found = state.fit(state.names, 30.0, live.head, held_out_rows=digits.test[:half]).head
    scores = novelty_scores(found, digits.test[half:])
    assert scores.mean() == pytest.approx(0.5, abs=0.06)
    assert novelty_scores(found, digits.test * 0 + 40).min() > 0.95


@pytest.mark.parametrize("kept_bytes", [0, 10**9])
def test_images_of_a_new_class_are_not_novel_any_more(digits: Digits, kept_bytes: int) -> None:
    is_new = np.array([label == "digit 0" for label in digits.labels])
    truth_new = np.array([label == "digit 0" for label in digits.truth])
    old = [label for label in digits.labels if label != "digit 0"]
    held_out = digits.test[~truth_new]
    live = train(Examples.of(digits.train[~is_new], old), TAPS, held_out_rows_for_novelty=held_out).head
    state = state_of(digits.train, digits.labels, kept_bytes=kept_bytes)
    found = state.fit(state.names, 30.0, live, held_out_rows=held_out).head
    before, after = (np.median(novelty_scores(head, digits.test[truth_new])) for head in (live, found))
    assert before > 0.9
    assert after < 0.7


def test_without_held_out_images_there_is_novelty_all_the_same(digits: Digits) -> None:
    for kept_bytes in (0, 10**9):
        head: Head = ridge_of(state_of(digits.train, digits.labels, kept_bytes=kept_bytes)).head
        assert novelty_scores(head, digits.test * 0 + 40).min() > 0.95


# -- what cannot be


def test_tiny_sets_give_a_head() -> None:
    random = np.random.default_rng(0)
    for counts in ({"a": 2, "b": 2}, {"a": 2, "b": 40}, {"a": 3, "b": 3, "c": 2}):
        labels = [label for label, n in counts.items() for _ in range(n)]
        rows = 4 * random.normal(size=(3, 8))[["abc".index(label) for label in labels]]
        rows = (rows + random.normal(0, 0.1, rows.shape)).astype(np.float32)
        found = ridge_of(state_of(rows, labels))
        assert accuracy(found, rows, labels) == 1.0


def test_too_few_classes_are_refused() -> None:
    rows, _ = noise(6, 4)
    with pytest.raises(ValueError, match="1 label"):
        state_of(rows, ["a"] * 6)


def test_other_names_are_refused(digits: Digits) -> None:
    state = state_of(digits.train, digits.labels)
    with pytest.raises(ValueError, match="9 classes"):
        state.fit(state.names[1:], 1.0)


def test_a_change_that_does_not_go_with_it_is_refused(digits: Digits) -> None:
    for removed in (named(["digit 77"], 5_000), [(f"{0:064x}", "digit 77")]):
        state = state_of(digits.train, digits.labels)
        with pytest.raises(ValueError, match="digit 77"):
            state.update([], removed, ArrayRows(digits.train[:1]), snapshot_id="2")
    state = state_of(digits.train, digits.labels)
    with pytest.raises(ValueError, match="added twice"):
        state.update(named(digits.labels)[:1], [], ArrayRows(digits.train[:1]), snapshot_id="2")
    with pytest.raises(ValueError, match="rows"):
        state.update(named(digits.labels)[:1], [], ArrayRows(digits.train[:2]), snapshot_id="2")


def test_rows_with_nan_are_refused() -> None:
    rows, labels = noise(20, 5)
    rows[7, 3] = np.nan
    with pytest.raises(NonFiniteRow):
        state_of(rows, labels)


def test_a_cancel_ends_a_build_and_a_fit(digits: Digits) -> None:
    with pytest.raises(TrainingCancelled):
        state_of(digits.train, digits.labels, cancelled=lambda: True)
    state = state_of(digits.train, digits.labels)
    with pytest.raises(TrainingCancelled):
        ridge_of(state, cancelled=lambda: True)
    assert accuracy(ridge_of(state), digits.test, digits.truth) > 0.9


def test_it_is_stale_once_much_has_changed(digits: Digits) -> None:
    state = state_of(digits.train[:500], digits.labels[:500])
    state.update(named(digits.labels[500:520], 500), [], ArrayRows(digits.train[500:520]), snapshot_id="2")
    assert not state.is_stale
    state.update(named(digits.labels[520:], 520), [], ArrayRows(digits.train[520:]), snapshot_id="3")
    assert state.is_stale
    assert accuracy(ridge_of(state), digits.test, digits.truth) > 0.9
