"""The four quadrants, what gives way when the wanted cannot be done, and the words that say so."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tlserve.core.assessment import Assessment, TapScore, Thresholds
from tlserve.core.errors import SettingsError, StrategyImpossible
from tlserve.core.plan import Depth, Strategy, TuneWish, Wish
from tlserve.core.strategy import Choice, choose

LAST = ("features",)
BOTH = ("stage4", "features")
FEW, MANY = 2_350, 12_000


def scored(last: float, both: float, early: float, error: float = 0.003) -> tuple[TapScore, ...]:
    """Three sets: the last tap, stage4 beside it, stage1 alone."""
    sets = ((LAST, 1280, last), (BOTH, 1440, both), (("stage1",), 24, early))
    return tuple(
        TapScore(taps, width, right, 0.007, right, -0.3, right - last, 0.0 if taps == LAST else error)
        for taps, width, right in sets
    )


SIMILAR = scored(0.874, 0.877, 0.61)
HELPED = scored(0.874, 0.889, 0.61)
DIFFERENT = scored(0.61, 0.69, 0.84)
LOST = scored(0.26, 0.25, 0.265)


def seen(scores: tuple[TapScore, ...], n_images: int = FEW, **more: Any) -> Assessment:
    return Assessment(n_images=n_images, n_classes=5, chance=0.22, scores=scores, **more)


def why_not(choice: Choice, strategy: Strategy) -> str:
    (found,) = [other.why_not for other in choice.alternatives if other.strategy is strategy]
    return found


@pytest.mark.parametrize(
    ("scores", "n_images", "strategy", "taps", "quadrant"),
    [
        (SIMILAR, FEW, Strategy.HEAD, LAST, ("small", "similar")),
        (DIFFERENT, FEW, Strategy.TAPS, ("stage1",), ("small", "different")),
        (SIMILAR, MANY, Strategy.FINETUNE, LAST, ("large", "similar")),
        (DIFFERENT, MANY, Strategy.FINETUNE_ALL, LAST, ("large", "different")),
        (LOST, MANY, Strategy.SCRATCH, LAST, ("large", "different")),
        (LOST, FEW, Strategy.HEAD, LAST, ("small", "different")),
        (HELPED, FEW, Strategy.TAPS, BOTH, ("small", "similar")),
        (HELPED, MANY, Strategy.FINETUNE, LAST, ("large", "similar")),
        (SIMILAR[:1], FEW, Strategy.HEAD, LAST, ("small", "similar")),
        (SIMILAR, 5_000, Strategy.FINETUNE, LAST, ("large", "similar")),
        (SIMILAR, 4_999, Strategy.HEAD, LAST, ("small", "similar")),
    ],
)
def test_size_and_similarity_decide(
    scores: tuple[TapScore, ...],
    n_images: int,
    strategy: Strategy,
    taps: tuple[str, ...],
    quadrant: tuple[str, str],
) -> None:
    choice = choose(seen(scores, n_images), Wish())
    assert (choice.strategy, choice.taps) == (strategy, taps)
    assert (choice.size, choice.likeness) == quadrant


def test_the_reason_holds_the_numbers_in_per_cent() -> None:
    assert choose(seen(SIMILAR), Wish()).reason == (
        "2,350 images are few (large from 5,000) and the last tap separates the classes as well as any "
        "earlier one (87.4 % against 87.7 %): the pictures resemble what the backbone knows, so a head on "
        "its last tap is enough."
    )
    assert choose(seen(DIFFERENT), Wish()).reason == (
        "2,350 images are few (large from 5,000) and the last tap separates the classes clearly worse than "
        "stage1 (61.0 % against 84.0 %): the pictures differ from what the backbone was made for, so the "
        "head reads stage1."
    )


def test_every_other_strategy_is_named_with_why_not() -> None:
    for scores in (SIMILAR, HELPED, DIFFERENT, LOST):
        for n_images in (FEW, MANY):
            for depth in (Depth.ROWS, Depth.FULL):
                choice = choose(seen(scores, n_images), Wish(), depth=depth)
                named = {other.strategy for other in choice.alternatives}
                assert named | {choice.strategy} == set(Strategy)
                assert len(choice.alternatives) == len(Strategy) - 1
                assert all(other.why_not for other in choice.alternatives)


def test_a_gain_that_chance_may_explain_moves_nothing() -> None:
    choice = choose(seen(scored(0.827, 0.830, 0.840, error=0.014)), Wish())
    assert choice.strategy is Strategy.HEAD
    assert "no earlier tap is surely better than the last one (82.7 % against 84.0 %)" in choice.reason
    assert why_not(choice, Strategy.TAPS) == (
        "the best, stage1, gains 1.3 points over the last tap, too little to be sure of "
        "(give or take 1.4 points)"
    )


def test_leaving_the_last_tap_out_takes_surer_evidence_than_adding_to_it() -> None:
    twice_its_error = {"error": 0.01}
    assert choose(seen(scored(0.8, 0.82, 0.7, **twice_its_error)), Wish()).taps == BOTH
    assert choose(seen(scored(0.8, 0.79, 0.82, **twice_its_error)), Wish()).strategy is Strategy.HEAD
    assert choose(seen(scored(0.8, 0.79, 0.84, **twice_its_error)), Wish()).taps == ("stage1",)


def test_a_gain_under_half_a_point_moves_nothing_however_sure() -> None:
    choice = choose(seen(scored(0.874, 0.878, 0.6, error=0.0001)), Wish())
    assert choice.strategy is Strategy.HEAD
    assert "under the 0.5 points that would count" in why_not(choice, Strategy.TAPS)


def test_thresholds_move_the_lines() -> None:
    assert choose(seen(SIMILAR), Wish(large_images=2_000)).size == "large"
    assert choose(seen(SIMILAR), Wish(), thresholds=Thresholds(0.002, 0.5)).strategy is Strategy.TAPS
    assert choose(seen(HELPED), Wish(), thresholds=Thresholds(similar_from=0.99)).likeness == "different"
    assert (
        choose(seen(SIMILAR, MANY), Wish(), thresholds=Thresholds(near_chance=0.9)).strategy
        is Strategy.SCRATCH
    )


def test_similarity_is_the_share_of_what_is_known_that_the_last_tap_knows() -> None:
    assert seen(DIFFERENT).similarity == pytest.approx((0.61 - 0.22) / (0.84 - 0.22))
    assert seen(scored(0.9, 0.8, 0.7)).similarity == 1
    assert seen(scored(0.2, 0.2, 0.3)).similarity == 0
    assert seen(scored(0.2, 0.2, 0.2)).similarity == 0


def test_no_fine_tuning_that_is_estimated_over_the_budget() -> None:
    hours = {Strategy.FINETUNE: 95 * 60.0, Strategy.FINETUNE_ALL: 240 * 60.0}
    choice = choose(seen(SIMILAR, MANY, estimated_seconds=hours), Wish())
    assert choice.strategy is Strategy.HEAD
    assert (
        "Not fine-tuning the last blocks: it would take about 95 minutes, over the 60 minutes of"
        in choice.reason
    )
    assert choice.reason.endswith("So it is a head on the last tap.")
    patient = Wish(tune=TuneWish(budget_minutes=100))
    assert choose(seen(SIMILAR, MANY, estimated_seconds=hours), patient).strategy is Strategy.FINETUNE
    assert choose(seen(DIFFERENT, MANY, estimated_seconds=hours), patient).strategy is Strategy.FINETUNE
    assert choose(seen(DIFFERENT, MANY, estimated_seconds=hours), Wish()).strategy is Strategy.TAPS


def test_a_backbone_that_cannot_be_trained_leaves_a_head_and_says_so() -> None:
    fixed = {"trainable": False, "why_untrainable": "backbone 'x' comes as a finished graph"}
    similar, different = (choose(seen(scores, MANY, **fixed), Wish()) for scores in (SIMILAR, DIFFERENT))
    assert (similar.strategy, different.strategy) == (Strategy.HEAD, Strategy.TAPS)
    for choice in (similar, different):
        assert "backbone 'x' comes as a finished graph" in choice.reason
        assert choice.size == "large"


def test_a_pass_over_rows_leaves_fine_tuning_to_the_full_one() -> None:
    for wish in (Wish(), Wish(strategy=Strategy.FINETUNE)):
        choice = choose(seen(SIMILAR, MANY), wish, depth=Depth.ROWS)
        assert choice.strategy is Strategy.HEAD
        assert "a full pass takes it up" in choice.reason
        assert why_not(choice, Strategy.FINETUNE) == "this pass fits heads only, a full pass takes it up"


@pytest.mark.parametrize("asked", list(Strategy))
@pytest.mark.parametrize("scores", [SIMILAR, DIFFERENT, LOST])
def test_an_expert_is_obeyed_whatever_was_measured(asked: Strategy, scores: tuple[TapScore, ...]) -> None:
    dear = dict.fromkeys(Strategy, 1000000.0)
    choice = choose(seen(scores, estimated_seconds=dear), Wish(strategy=asked))
    assert choice.strategy is choice.asked is asked
    assert f'strategy = "{asked.value}"' in choice.reason
    assert (choice.taps != LAST) == (asked is Strategy.TAPS)
    assert {other.why_not for other in choice.alternatives} == {f'the settings ask for "{asked.value}"'}


def test_taps_that_an_expert_asks_for_are_the_best_there_are() -> None:
    assert choose(seen(SIMILAR), Wish(strategy=Strategy.TAPS)).taps == BOTH
    assert choose(seen(DIFFERENT), Wish(strategy=Strategy.TAPS)).taps == ("stage1",)


@pytest.mark.parametrize("asked", [Strategy.FINETUNE, Strategy.FINETUNE_ALL, Strategy.SCRATCH])
def test_an_impossible_wish_is_refused_with_the_reason(asked: Strategy) -> None:
    fixed = seen(SIMILAR, MANY, trainable=False, why_untrainable="backbone 'x' comes as a finished graph")
    said = f'"{asked.value}" is impossible here: backbone .x. comes'
    with pytest.raises(StrategyImpossible, match=said) as told:
        choose(fixed, Wish(strategy=asked))
    assert str(told.value).endswith("; choose another strategy, or another backbone")
    assert issubclass(StrategyImpossible, SettingsError)


def test_earlier_taps_of_a_backbone_that_has_one_are_refused() -> None:
    with pytest.raises(StrategyImpossible, match="one tap only"):
        choose(seen(SIMILAR[:1]), Wish(strategy=Strategy.TAPS))


def test_the_report_is_json_with_quadrant_numbers_and_reasons() -> None:
    choice = choose(seen(DIFFERENT, estimated_seconds={Strategy.FINETUNE: 90.0}), Wish())
    report = json.loads(json.dumps(choice.as_report()))
    assert report["strategy"] == "taps"
    assert report["taps"] == ["stage1"]
    assert report["asked"] == "auto"
    assert report["quadrant"] == {"size": "small", "likeness": "different"}
    assert report["reason"] == choice.reason
    assert [row["taps"] for row in report["by_taps"]] == [["features"], ["stage4", "features"], ["stage1"]]
    assert report["by_taps"][2]["gain"] == pytest.approx(0.23)
    assert report["numbers"]["similarity"] == pytest.approx(0.39 / 0.62)
    assert report["numbers"]["estimated_minutes"] == {"finetune": 1.5}
    assert {other["strategy"] for other in report["alternatives"]} == {
        "head",
        "finetune",
        "finetune_all",
        "scratch",
    }


def test_an_assessment_without_scores_is_refused() -> None:
    with pytest.raises(ValueError, match="last tap"):
        seen(())
    with pytest.raises(ValueError, match="chance"):
        Assessment(n_images=3, n_classes=1, chance=1.0, scores=SIMILAR)
