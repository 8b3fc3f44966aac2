"""How far training reaches into the backbone: chosen by measured scores and wishes, told in plain words.

Pure. The table, under `auto`:

    few images,  similar pictures    a head on the last tap (beside earlier ones where that surely gains)
    few images,  different pictures  a head on earlier taps, alone or beside the last one
    many images, similar pictures    fine-tune the last blocks
    many images, different pictures  fine-tune every block, or begin from random weights
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from tlserve.core.assessment import Assessment, TapScore, Thresholds
from tlserve.core.errors import StrategyImpossible
from tlserve.core.plan import Depth, Strategy, Wish
from tlserve.core.quadrant import TUNING, Case
from tlserve.core.reasons import obstacle, why, why_not, why_obeyed


@dataclass(frozen=True, slots=True)
class Alternative:
    """A strategy that was not taken."""

    strategy: Strategy
    why_not: str


@dataclass(frozen=True, slots=True)
class Choice:
    """What is done, and why."""

    strategy: Strategy
    taps: tuple[str, ...]
    """What the head reads, from shallow to deep."""
    asked: Strategy | Literal["auto"]
    size: Literal["small", "large"]
    likeness: Literal["similar", "different"]
    reason: str
    alternatives: tuple[Alternative, ...]
    numbers: dict[str, Any]
    scores: tuple[TapScore, ...]

    def as_report(self) -> dict[str, Any]:
        """As JSON holds it: what a version's report shows under `strategy`."""
        return {
            "strategy": self.strategy.value,
            "taps": list(self.taps),
            "asked": str(self.asked),
            "quadrant": {"size": self.size, "likeness": self.likeness},
            "reason": self.reason,
            "alternatives": [
                {"strategy": other.strategy.value, "why_not": other.why_not} for other in self.alternatives
            ],
            "numbers": dict(self.numbers),
            "by_taps": [asdict(score) | {"taps": list(score.taps)} for score in self.scores],
        }


def choose(
    assessment: Assessment,
    wish: Wish,
    *,
    thresholds: Thresholds | None = None,
    depth: Depth = Depth.FULL,
) -> Choice:
    """The strategy for these images and this backbone.

    A strategy that `wish` names is obeyed whatever was measured. Under `auto` the quadrant decides, and
    fine-tuning that is impossible or over `wish.tune.budget_minutes` gives way to the next best, with the
    number. A pass that is not FULL fits heads only.
    Raises StrategyImpossible for a wish that this backbone cannot fulfil.
    """
    case = Case(assessment, wish, thresholds or Thresholds(), depth)
    if wish.strategy == "auto":
        strategy = next(one for one in case.wanted() if obstacle(case, one) is None)
        reason = why(case, strategy)
    else:
        strategy, reason = _obey(case, wish.strategy), why_obeyed(case, wish.strategy)
    others = [other for other in Strategy if other is not strategy]
    return Choice(
        strategy=strategy,
        taps=case.taps(strategy),
        asked=wish.strategy,
        size="large" if case.large else "small",
        likeness="different" if case.different else "similar",
        reason=reason,
        alternatives=tuple(Alternative(other, why_not(case, other, strategy)) for other in others),
        numbers=_numbers(case),
        scores=assessment.scores,
    )


def _obey(case: Case, asked: Strategy) -> Strategy:
    """What the settings name; a head in its place where the pass fits heads only."""
    if asked is Strategy.TAPS and case.seen.rival is None:
        raise StrategyImpossible(asked, "the backbone has one tap only")
    if asked not in TUNING:
        return asked
    if not case.seen.trainable:
        raise StrategyImpossible(asked, case.seen.why_untrainable)
    return asked if case.depth is Depth.FULL else Strategy.HEAD


def _numbers(case: Case) -> dict[str, Any]:
    """What the choice rests on; shares in [0, 1]."""
    seen, rival = case.seen, case.seen.rival
    return {
        "n_images": seen.n_images,
        "large_images": case.wish.large_images,
        "n_classes": seen.n_classes,
        "chance": seen.chance,
        "accuracy_last_tap": seen.last.accuracy,
        "even_accuracy": seen.even_accuracy,
        "best_taps": list(seen.best.taps),
        "accuracy_best_taps": seen.best.accuracy,
        "gain": rival.gain if rival else 0.0,
        "gain_standard_error": rival.gain_standard_error if rival else 0.0,
        "similarity": seen.similarity,
        "trainable": seen.trainable,
        "estimated_minutes": {
            strategy.value: round(seconds / 60, 2) for strategy, seconds in seen.estimated_seconds.items()
        },
        "budget_minutes": case.wish.tune.budget_minutes,
        "thresholds": asdict(case.thresholds),
    }
