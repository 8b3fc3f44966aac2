"""How a version was made: the strategy and why, and the heads compared.

Each function reads one part of a report and returns what the page shows of it, or None where it is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tlserve.report import charts, words
from tlserve.report.facts import Fact, all_facts_of, facts_of
from tlserve.report.reading import Json, number, objects, part, text, texts, whole

TAPS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Tap:
    name: str
    n_features: int
    accuracy: float
    log_me: float | None
    is_used: bool
    strip: Markup


@dataclass(frozen=True, slots=True)
class StrategyPart:
    name: str
    quadrant: str
    reason: str
    taps: list[Tap]
    scale: str
    """What the ends of the strips mean."""
    alternatives: list[tuple[str, str]]
    numbers: list[Fact]
    plan: list[Fact]


@dataclass(frozen=True, slots=True)
class Head:
    name: str
    accuracy: float | None
    nll: float | None
    ece: float | None
    seconds: float | None
    setting: str
    is_chosen: bool
    why: str
    strip: Markup


@dataclass(frozen=True, slots=True)
class Heads:
    choice: str
    rows: list[Head]
    scale: str


def strategy(report: Json) -> StrategyPart | None:
    """The strategy chosen, the numbers behind it, and why not another one."""
    found, plan = part(report, "strategy"), part(report, "plan")
    if not found and not plan:
        return None
    used = texts(plan.get("taps")) or texts(found.get("taps"))
    taps, scale = _taps((objects(found.get("by_taps")) or objects(found.get("taps")))[:TAPS_SHOWN], used)
    others = objects(found.get("alternatives"))
    return StrategyPart(
        name=_strategy_name(plan) or _strategy_name(found),
        quadrant=_quadrant(found),
        reason=text(found.get("reason")),
        taps=taps,
        scale=str(scale),
        alternatives=[(_strategy_name(one), text(one.get("why_not"))) for one in others],
        numbers=all_facts_of(part(found, "numbers")),
        plan=_plan_facts(plan),
    )


def _strategy_name(one: Json) -> str:
    name = text(one.get("strategy"))
    return words.STRATEGIES.get(name, name)


def _quadrant(found: Json) -> str:
    """Which of the four: few or many images, similar to what the backbone knows or not."""
    said = part(found, "quadrant")
    if not said:
        return text(found.get("quadrant"))
    size = {"small": "few images", "large": "many images"}.get(text(said.get("size")), "")
    likeness = {
        "similar": "similar to what the backbone knows",
        "different": "unlike what the backbone knows",
    }
    return ", ".join(filter(None, (size, likeness.get(text(said.get("likeness")), ""))))


def _plan_facts(plan: Json) -> list[Fact]:
    facts = []
    if head := text(plan.get("head")):
        facts.append(("head", words.HEADS.get(head, head)))
    if taps := texts(plan.get("taps")):
        facts.append(("reads", " + ".join(taps)))
    if "views" in plan and whole(plan.get("views")):
        policy = ", ".join(texts(plan.get("augment")))
        facts.append(("augmented views", f"{whole(plan.get('views'))} of each image ({policy})"))
    elif "views" in plan:
        facts.append(("augmented views", "none"))
    if "mixup" in plan:
        facts.append(("mixtures of two images", "used" if plan.get("mixup") else "not used"))
    return facts


def _taps(found: Sequence[Json], used: Sequence[str]) -> tuple[list[Tap], charts.Scale]:
    """Each set of taps with its accuracy, two standard errors either way, and the scale of the strips."""
    bounds = {at: _bounds(one) for at, one in enumerate(found) if number(one.get("accuracy")) is not None}
    scale = charts.Scale.of(value for three in bounds.values() for value in three)
    taps = []
    for at, (accuracy, low, high) in bounds.items():
        one, names = found[at], texts(found[at].get("taps"))
        taps.append(
            Tap(
                name=" + ".join(names),
                n_features=whole(one.get("n_features")),
                accuracy=accuracy,
                log_me=number(one.get("log_me")),
                is_used=bool(names) and names == list(used),
                strip=scale.strip(accuracy, low, high),
            )
        )
    return taps, scale


def _bounds(one: Json) -> tuple[float, float, float]:
    accuracy, error = number(one.get("accuracy")) or 0.0, number(one.get("standard_error")) or 0.0
    return accuracy, max(0.0, accuracy - 2 * error), min(1.0, accuracy + 2 * error)


def heads(report: Json) -> Heads | None:
    """The heads that were compared, the most accurate first."""
    training = part(report, "training")
    found = objects(training.get("comparison"))
    if not found:
        return None
    scale = charts.Scale.of(number(one.get("cv_accuracy")) for one in found)
    rows = [_head(one, scale) for one in found]
    rows.sort(key=lambda head: -1.0 if head.accuracy is None else head.accuracy, reverse=True)
    return Heads(text(training.get("choice")), rows, str(scale))


def _head(one: Json, scale: charts.Scale) -> Head:
    kind, setting, accuracy = text(one.get("kind")), one.get("setting"), number(one.get("cv_accuracy"))
    if isinstance(setting, Mapping):
        said = ", ".join(f"{name} {value}" for name, value in facts_of(setting))
    else:
        said = "" if setting is None else words.value_text(setting)
    return Head(
        name=words.HEADS.get(kind, kind),
        accuracy=accuracy,
        nll=number(one.get("nll")),
        ece=number(one.get("ece")),
        seconds=number(one.get("seconds")),
        setting=said,
        is_chosen=bool(one.get("chosen")),
        why=text(one.get("why")) or text(one.get("why_not")),
        strip=scale.strip(accuracy),
    )
