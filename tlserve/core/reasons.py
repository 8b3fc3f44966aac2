"""Why a strategy was chosen and the others were not: every sentence of it, with its numbers.

Written for the person who brought the pictures: shares in per cent, no term that needs a book.
"""

from __future__ import annotations

from tlserve.core.plan import Depth, Strategy
from tlserve.core.quadrant import TUNING, Case

DOES = {
    Strategy.HEAD: "a head on the last tap",
    Strategy.TAPS: "a head on earlier taps",
    Strategy.FINETUNE: "fine-tuning the last blocks",
    Strategy.FINETUNE_ALL: "fine-tuning every block",
    Strategy.SCRATCH: "training from random weights",
}


def why(case: Case, chosen: Strategy) -> str:
    """Why `auto` takes `chosen`: the quadrant, what it asks for, and what stood in the way of that."""
    wanted = case.wanted()
    reason = f"{_size(case)} and {_likeness(case)}: {_conclusion(case, wanted[0])}."
    for passed in wanted[: wanted.index(chosen)]:
        reason += f" Not {DOES[passed]}: {obstacle(case, passed)}."
    if chosen is not wanted[0]:
        on_taps = f"a head on {named(case.taps(chosen))}"
        reason += f" So it is {on_taps if chosen is Strategy.TAPS else DOES[chosen]}."
    return reason


def why_obeyed(case: Case, asked: Strategy) -> str:
    """What stands beside a strategy that the settings name."""
    reason = f'The settings ask for it (strategy = "{asked}")'
    minutes = case.minutes(asked)
    if asked in TUNING and case.depth is not Depth.FULL:
        return f"{reason}; {obstacle(case, asked)}, until then a head answers."
    if asked in TUNING and minutes is not None:
        over = ", over budget_minutes, which binds `auto` only" if case.over_budget(asked) else ""
        return f"{reason}; it takes about {_minutes(minutes)}{over}."
    if asked is Strategy.TAPS:
        taps = case.taps(asked)
        accuracy = next(score.accuracy for score in case.seen.scores if score.taps == taps)
        return (
            f"{reason}; the best of them, {named(taps)}, is right in {_share(accuracy)}, "
            f"the last tap alone in {_share(case.seen.last.accuracy)}."
        )
    return reason + "."


def obstacle(case: Case, strategy: Strategy) -> str | None:
    """Why `auto` cannot do this here and now, whatever the quadrant asks for; None where it can."""
    if strategy is Strategy.TAPS:
        return None if case.better else _no_gain(case)
    if strategy not in TUNING:
        return None
    if not case.seen.trainable:
        return case.seen.why_untrainable
    if case.depth is not Depth.FULL:
        return "this pass fits heads only, a full pass takes it up"
    minutes = case.minutes(strategy)
    if minutes is not None and case.over_budget(strategy):
        budget = _minutes(case.wish.tune.budget_minutes)
        return f"it would take about {_minutes(minutes)}, over the {budget} of budget_minutes"
    return None


def why_not(case: Case, other: Strategy, chosen: Strategy) -> str:
    """Why `other` was passed over for `chosen`, in words that stand alone."""
    asked = case.wish.strategy
    if asked != "auto":
        waits = obstacle(case, other) if other is asked else None
        return waits or f'the settings ask for "{asked}"'
    if other in TUNING and not case.large:
        return _size(case)
    if found := obstacle(case, other):
        return found
    if other is Strategy.HEAD:
        return _not_head(case, chosen)
    if other is Strategy.TAPS:
        return "with so many images the blocks behind the taps can learn, which reaches further"
    return _not_tuned_so(case, other, chosen)


def named(taps: tuple[str, ...]) -> str:
    return " + ".join(taps)


def _size(case: Case) -> str:
    line = f"large from {case.wish.large_images:,}"
    return f"{case.seen.n_images:,} images are {'many' if case.large else 'few'} ({line})"


def _likeness(case: Case) -> str:
    last, rival, better = case.seen.last, case.seen.rival, case.better
    if case.lost:
        return f"no tap tells the classes apart ({_above_guessing(case)})"
    if better is not None:
        against = f"({_share(last.accuracy)} against {_share(better.accuracy)})"
        if case.different:
            return f"the last tap separates the classes clearly worse than {named(better.taps)} {against}"
        return f"the last tap separates the classes nearly as well as {named(better.taps)} {against}"
    if rival is None:
        return f"the backbone's only tap separates the classes ({_share(last.accuracy)})"
    against = f"({_share(last.accuracy)} against {_share(rival.accuracy)})"
    if rival.gain < case.thresholds.least_gain:
        return f"the last tap separates the classes as well as any earlier one {against}"
    return f"no earlier tap is surely better than the last one {against}"


def _conclusion(case: Case, wanted: Strategy) -> str:
    resemble = "the pictures resemble what the backbone knows"
    differ = "the pictures differ from what the backbone was made for"
    few = f"{differ}, there are too few of them to teach it, and another backbone may do better"
    reads = f"so the head reads {named(case.taps(Strategy.TAPS))}"
    if case.better and not case.different:
        on_taps = f"{resemble}, but earlier taps add {_points(case.better.gain)} at no cost, {reads}"
    else:
        on_taps = f"{differ}, {reads}" if case.better else few
    return {
        Strategy.HEAD: f"{resemble}, so a head on its last tap is enough",
        Strategy.TAPS: on_taps,
        Strategy.FINETUNE: f"{resemble}, and there are enough of them to teach its last blocks more",
        Strategy.FINETUNE_ALL: f"{differ}, and there are enough of them to teach every block",
        Strategy.SCRATCH: f"{differ}, so its weights are no help and it begins from random ones",
    }[wanted]


def _not_head(case: Case, chosen: Strategy) -> str:
    if chosen is Strategy.TAPS and case.better:
        return f"the last tap alone is right {_points(case.better.gain)} less often"
    return "fine-tuning begins with this head and goes on from there"


def _not_tuned_so(case: Case, other: Strategy, chosen: Strategy) -> str:
    """Why fine-tuning of another reach was chosen."""
    if other is Strategy.SCRATCH:
        return f"what the backbone knows helps ({_above_guessing(case)})"
    if chosen is Strategy.SCRATCH:
        return "the weights that it would begin from know nothing of these classes"
    if other is Strategy.FINETUNE_ALL:
        return "the early blocks need not change, the last tap keeps nearly all that they know"
    return "the early blocks must learn too, the last tap lost what earlier ones know"


def _above_guessing(case: Case) -> str:
    best, chance = _share(case.seen.even_accuracy), _share(case.seen.even_chance)
    return f"{best} of each class right on average, guessing gives {chance}"


def _no_gain(case: Case) -> str:
    rival = case.seen.rival
    if rival is None:
        return "the backbone has one tap only"
    if rival.gain <= 0:
        return f"no earlier tap adds anything ({named(rival.taps)} comes nearest, {_share(rival.accuracy)})"
    gained = f"the best, {named(rival.taps)}, gains {_points(rival.gain)} over the last tap"
    if rival.gain < case.thresholds.least_gain:
        return f"{gained}, under the {_points(case.thresholds.least_gain)} that would count"
    return f"{gained}, too little to be sure of (give or take {_points(rival.gain_standard_error)})"


def _share(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"


def _minutes(minutes: float) -> str:
    return f"{minutes:,.0f} minutes" if minutes >= 10 else f"{minutes:.1f} minutes"
