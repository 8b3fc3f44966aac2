"""The judge as a table: what was right before, what is right now, and what follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pytest

from tlserve.core.judge import Answers, Policy, judge, paired_difference, sign_test, wilson_interval

AB = ("a", "b")


def answers(said: Sequence[str], labels: Sequence[str] = AB) -> Answers:
    """A version that says just this, quite sure of it."""
    probabilities = np.full((len(said), len(labels)), 0.1, dtype=np.float32)
    for row, label in enumerate(said):
        probabilities[row, labels.index(label)] = 0.9
    return Answers(tuple(labels), probabilities)


def case(both: int = 0, won: int = 0, lost: int = 0, neither: int = 0) -> tuple[list[str], Answers, Answers]:
    """All images are of class a: right in both versions, in the candidate only, in live only, in none."""
    candidate = "a" * (both + won) + "b" * (lost + neither)
    live = "a" * both + "b" * won + "a" * lost + "b" * neither
    return ["a"] * len(live), answers(candidate), answers(live)


@pytest.mark.parametrize(
    ("counts", "policy", "verdict", "evidence", "reason"),
    [
        # strong evidence
        ({"both": 90, "neither": 10}, Policy(), "promote", "strong", "at least as good"),
        ({"both": 80, "won": 10, "lost": 10}, Policy(), "promote", "strong", "at least as good"),
        ({"both": 89, "won": 1, "neither": 10}, Policy(), "promote", "strong", "at least as good"),
        ({"both": 90, "lost": 10}, Policy(), "hold", "strong", "a drop of more than 1 point cannot"),
        ({"both": 99, "lost": 1}, Policy(), "promote", "strong", "no more than chance"),
        ({"both": 99, "lost": 1}, Policy(max_drop=0.0), "hold", "strong", "a drop of more than 0 points"),
        ({"both": 98, "lost": 2}, Policy(), "hold", "strong", "a drop of more than 1 point cannot"),
        ({"both": 256, "lost": 2}, Policy(), "promote", "strong", "no more than chance, and within the"),
        ({"both": 590, "lost": 15, "won": 10}, Policy(), "promote", "strong", "no more than chance"),
        ({"both": 590, "lost": 12, "won": 4}, Policy(), "hold", "strong", "a drop of more than 1 point"),
        ({"both": 2_000, "lost": 22, "won": 4}, Policy(), "hold", "strong", "a drop of more than 1 point"),
        ({"both": 99, "lost": 1}, Policy(max_drop=0.03), "promote", "strong", "within the accepted drop"),
        ({"both": 9_990, "won": 4, "lost": 6}, Policy(), "promote", "strong", "within the accepted drop"),
        ({"both": 10_000, "lost": 300}, Policy(), "hold", "strong", "a drop of more than"),
        ({"both": 990, "lost": 10}, Policy(max_drop=0.0), "hold", "strong", "a drop of more than 0 points"),
        ({"both": 29, "lost": 1}, Policy(), "promote", "strong", "no more than chance, and a single image"),
        ({"both": 28, "lost": 2}, Policy(), "hold", "strong", "a drop of more than"),
        # weak evidence
        ({"both": 28, "lost": 1}, Policy(), "promote", "weak", "too few images to call it worse"),
        ({"lost": 1}, Policy(), "promote", "weak", "too few images"),
        ({"lost": 3}, Policy(), "promote", "weak", "too few images"),
        ({"lost": 4}, Policy(), "hold", "weak", "clearly worse, though on few images"),
        ({"both": 20, "lost": 5}, Policy(), "hold", "weak", "clearly worse"),
        ({"both": 15, "lost": 7, "won": 1}, Policy(), "hold", "weak", "clearly worse"),
        ({"both": 15, "lost": 5, "won": 1}, Policy(), "promote", "weak", "too few images"),
        ({"won": 1}, Policy(), "promote", "weak", "at least as good"),
        # the floor
        ({"both": 90, "won": 1, "lost": 9}, Policy(1.0, 0.95), "hold", "strong", "recall under the floor"),
        ({"both": 90, "lost": 10}, Policy(1.0, 0.9), "promote", "strong", "within the accepted drop"),
        ({"both": 50, "neither": 50}, Policy(1.0, 0.9), "promote", "strong", "at least as good"),
        ({"both": 5, "lost": 1}, Policy(1.0, 0.9), "hold", "weak", "recall under the floor of 90% for a"),
    ],
)
def test_verdicts(counts: dict[str, int], policy: Policy, verdict: str, evidence: str, reason: str) -> None:
    decision = judge(*case(**counts), policy)
    assert (decision.verdict, decision.evidence) == (verdict, evidence)
    assert decision.reason.startswith(reason)
    assert "of the live version on the same" in decision.reason


def test_the_numbers_behind_a_verdict() -> None:
    decision = judge(*case(both=80, won=5, lost=10, neither=5), Policy())
    assert (decision.n_held_out, decision.n_compared) == (100, 100)
    assert (decision.accuracy, decision.live_accuracy) == (0.85, 0.9)
    assert decision.difference == pytest.approx(-0.05)
    assert decision.difference_low == pytest.approx(-0.05 - 1.645 * (0.15 - 0.0025) ** 0.5 / 10, abs=1e-4)
    assert decision.accuracy_low == pytest.approx(0.767, abs=1e-3)
    assert decision.accuracy_high == pytest.approx(0.907, abs=1e-3)


def test_a_first_version_always_goes_live_with_its_interval() -> None:
    decision = judge(["a", "b", "b"], answers("aab"), None, Policy(recall_floor=1.0))
    assert (decision.verdict, decision.evidence, decision.n_held_out) == ("promote", "first", 3)
    assert decision.reason == "first version: 66.7% on 3 held-out images (95 % interval 20.8% to 93.9%)"
    assert decision.live_accuracy is decision.difference is None
    found = [(c.label, c.recall, c.live_recall) for c in decision.classes]
    assert found == [("a", 1, None), ("b", 0.5, None)]


def test_a_first_version_without_held_out_images_says_so() -> None:
    decision = judge([], answers([]), None, Policy())
    assert (decision.verdict, decision.accuracy, decision.accuracy_low) == ("promote", None, None)
    assert "too few images to hold any out" in decision.reason


def test_nothing_held_out_is_nothing_to_compare() -> None:
    decision = judge([], answers([]), answers([]), Policy())
    assert (decision.verdict, decision.evidence, decision.n_compared) == ("promote", "weak", 0)
    assert decision.reason.startswith("nothing to compare")


def test_a_new_class_is_not_a_loss() -> None:
    """The candidate takes old images for the new class; among the old classes it would have been right."""
    truth = ["a"] * 40 + ["new"] * 10
    candidate = Answers(("a", "b", "new"), np.asarray([[0.4, 0.1, 0.5]] * 40 + [[0, 0, 1]] * 10, np.float32))
    decision = judge(truth, candidate, answers("a" * 50), Policy())
    assert decision.verdict == "promote"
    assert (decision.n_held_out, decision.n_compared) == (50, 40)
    assert (decision.accuracy, decision.difference) == (0.2, 0.0)
    assert (decision.only_candidate, decision.only_live) == (("new",), ())


def test_a_removed_class_is_not_a_loss() -> None:
    truth = ["a"] * 40 + ["gone"] * 10
    live = answers(["a"] * 40 + ["gone"] * 10, ("a", "b", "gone"))
    decision = judge(truth, answers("a" * 50), live, Policy())
    assert (decision.verdict, decision.n_held_out, decision.n_compared) == ("promote", 40, 40)
    assert (decision.only_candidate, decision.only_live) == ((), ("gone",))


def test_one_shared_class_is_nothing_to_compare() -> None:
    decision = judge(["a"] * 50, answers("b" * 50), answers("a" * 50, ("a", "z")), Policy())
    assert (decision.verdict, decision.n_compared) == ("promote", 0)
    assert decision.reason.startswith("nothing to compare")


def test_columns_may_stand_in_any_order() -> None:
    truth = ["a", "b"] * 20
    swapped = Answers(("b", "a"), answers(truth).probabilities[:, ::-1])
    decision = judge(truth, swapped, answers(truth), Policy())
    assert (decision.accuracy, decision.live_accuracy) == (1.0, 1.0)


def test_a_decision_is_plain_data() -> None:
    import json

    assert json.loads(json.dumps(asdict(judge(*case(both=30), Policy()))))["verdict"] == "promote"


def test_a_thousand_classes_are_judged_at_once() -> None:
    labels = tuple(f"class {n:04}" for n in range(1000))
    truth = [label for label in labels for _ in range(5)]
    perfect = Answers(labels, np.repeat(np.eye(1000, dtype=np.float32), 5, axis=0))
    decision = judge(truth, perfect, perfect, Policy())
    assert (decision.verdict, decision.accuracy, len(decision.classes)) == ("promote", 1.0, 1000)


def test_wilson_never_leaves_the_unit_interval() -> None:
    assert wilson_interval(0, 5) == pytest.approx((0.0, 0.434), abs=1e-3)
    assert wilson_interval(5, 5) == pytest.approx((0.566, 1.0), abs=1e-3)
    assert wilson_interval(0, 5)[0] == 0
    assert wilson_interval(5, 5)[1] <= 1


def test_equal_answers_differ_by_nothing() -> None:
    same = np.array([True, False, True])
    assert paired_difference(same, same) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("won", "lost", "chance"), [(0, 0, 1.0), (0, 1, 0.5), (0, 5, 1 / 32), (1, 7, 9 / 256), (5, 0, 1.0)]
)
def test_the_sign_test_counts_coins(won: int, lost: int, chance: float) -> None:
    assert sign_test(won, lost) == pytest.approx(chance)


def test_the_sign_test_is_continuous_where_it_becomes_normal() -> None:
    assert sign_test(475, 525) == pytest.approx(sign_test(476, 526), rel=0.02)


def test_a_search_for_something_better_must_not_lose_an_image() -> None:
    truth = ["a"] * 20 + ["b"] * 20

    def answers(wrong: int) -> Answers:
        right = np.array([index >= wrong for index in range(40)])
        column = np.where(np.array(truth) == "a", 0, 1)
        chosen = np.where(right, column, 1 - column)
        return Answers(("a", "b"), np.eye(2, dtype=np.float32)[chosen])

    drop, search = Policy(), Policy(must_not_lose=True)
    assert judge(truth, answers(3), answers(2), drop).verdict == "promote"
    lost = judge(truth, answers(3), answers(2), search)
    assert (lost.verdict, "not as good" in lost.reason) == ("hold", True)
    assert judge(truth, answers(2), answers(2), search).verdict == "promote"
    assert judge(truth, answers(1), answers(2), search).verdict == "promote"


def test_a_refinement_must_be_better_or_as_often_right_and_surer() -> None:
    truth = ["a"] * 20 + ["b"] * 20
    own = np.where(np.array(truth) == "a", 0, 1)

    def answers(wrong: int, sure: float) -> Answers:
        chosen = np.where(np.arange(40) >= wrong, own, 1 - own)
        return Answers(("a", "b"), np.where(np.eye(2)[chosen] == 1, sure, 1 - sure).astype(np.float32))

    refines, fast = Policy(must_gain=True), answers(2, 0.8)
    assert judge(truth, answers(1, 0.8), fast, refines).verdict == "promote"
    assert judge(truth, answers(2, 0.9), fast, refines).verdict == "promote"
    for no_better in (answers(2, 0.8), answers(2, 0.7), answers(3, 0.9)):
        held = judge(truth, no_better, fast, refines)
        assert (held.verdict, "no better than the fast version" in held.reason) == ("hold", True)


def test_few_images_are_no_reason_to_do_without_the_full_recipe() -> None:
    truth = ["a", "b"] * 4

    def answers(wrong: int) -> Answers:
        columns = np.array([index % 2 if index >= wrong else 1 - index % 2 for index in range(8)])
        return Answers(("a", "b"), np.eye(2, dtype=np.float32)[columns])

    refines = Policy(must_gain=True)
    assert judge(truth, answers(1), answers(0), refines).verdict == "promote"
    assert judge(truth, answers(4), answers(0), refines).verdict == "hold"


def test_a_refinement_is_compared_on_the_classes_that_both_know() -> None:
    truth = ["a", "b", "c"] * 12
    sure = Answers(("a", "b", "c"), np.eye(3, dtype=np.float32)[np.arange(36) % 3])
    fast = Answers(("a", "b"), np.full((36, 2), 0.5, np.float32))
    assert judge(truth, sure, fast, Policy(must_gain=True)).verdict == "promote"
