"""The top of the page: how good the version is, what was decided and why, and what to do next.

The actions are the two or three that help most, from the data's health and the learning curve.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from markupsafe import Markup

from tlserve.report import charts, words
from tlserve.report.classes import ClassTable, Confusion
from tlserve.report.pictures import Finding, findings, problems
from tlserve.report.reading import Json, first, number, objects, part, text, whole

ACTIONS_SHOWN = 3
STILL_RISING = 0.005
"""Half a point from the last doubling of the pictures: more of them will help."""
WEAK_CLASS = 0.05
"""A class this far below the whole is worth pictures of its own."""
FEW_HELD_OUT = 30

_VERDICTS = {"promote": ("passed", "good"), "hold": ("held back", "bad")}
_EVIDENCE = {
    "first": "the first version: there was none to compare with",
    "weak": "weak evidence: few images to compare on",
    "strong": "strong evidence",
}


@dataclass(frozen=True, slots=True)
class Action:
    """One useful thing to do."""

    sentence: str
    command: str = ""
    anchor: str = ""
    """The section that tells more."""


@dataclass(frozen=True, slots=True)
class Gain:
    """Against the live version, on the same pictures."""

    difference: float
    at_least: float | None
    live_accuracy: float | None
    n_compared: int

    @property
    def is_sure(self) -> bool:
        """Better by more than chance explains."""
        return self.at_least is not None and self.at_least > 0


@dataclass(frozen=True, slots=True)
class Glance:
    accuracy: float | None
    low: float | None
    high: float | None
    n_held_out: int
    strip: Markup
    verdict: str
    tone: str
    evidence: str
    reason: str
    gain: Gain | None
    actions: list[Action]


def glance(report: Json, classes: ClassTable | None, confused: list[Confusion]) -> Glance:
    """The summary; parts that the report lacks are None or empty."""
    decision, held_out = part(report, "decision"), part(report, "evaluation", "held_out")
    accuracy, low, high = (
        number(decision.get(name)) if number(decision.get(name)) is not None else number(held_out.get(name))
        for name in ("accuracy", "accuracy_low", "accuracy_high")
    )
    n_held_out = whole(decision.get("n_held_out")) or whole(first(held_out, "n", "n_images"))
    verdict, tone = _VERDICTS.get(text(decision.get("verdict")), (text(decision.get("verdict")), "quiet"))
    return Glance(
        accuracy=accuracy,
        low=low,
        high=high,
        n_held_out=n_held_out,
        strip=charts.Scale().strip(accuracy, low, high),
        verdict=verdict,
        tone=tone,
        evidence=_EVIDENCE.get(text(decision.get("evidence")), text(decision.get("evidence"))),
        reason=text(decision.get("reason")),
        gain=_gain(decision),
        actions=list(islice(_actions(report, accuracy, n_held_out, classes, confused), ACTIONS_SHOWN)),
    )


def _gain(decision: Json) -> Gain | None:
    difference = number(decision.get("difference"))
    if difference is None:
        return None
    return Gain(
        difference,
        number(decision.get("difference_low")),
        number(decision.get("live_accuracy")),
        whole(decision.get("n_compared")),
    )


def _actions(
    report: Json,
    accuracy: float | None,
    n_held_out: int,
    classes: ClassTable | None,
    confused: list[Confusion],
) -> Iterator[Action]:
    """The most useful first."""
    if part(report, "decision").get("verdict") == "hold":
        command = f"tlserve promote {shlex.quote(text(report.get('model')))} {whole(report.get('version'))}"
        yield Action("It was held back. If you know better, let it answer all the same:", command)
    found = findings(report)
    yield from (Action(one.sentence, anchor="health") for one in found if one.rank == 0)
    yield from _suspicious(report, found)
    yield from (
        Action(one.sentence, anchor="health")
        for one in found
        if one.rank == 1 and one.kind not in ("mislabelled", "small_class", "imbalance")
    )
    if weak := _weak_class(accuracy, classes, confused):
        yield Action(weak, anchor="classes")
    if _still_rises(report):
        reading = text(part(report, "learning_curve").get("reading"))
        yield Action(reading or "Add images: accuracy still rises with each of them.", anchor="curve")
    if 0 < n_held_out < FEW_HELD_OUT:
        yield Action(f"Add images: {n_held_out} held out are too few to know the accuracy well.")
    yield from (
        Action(one.sentence, anchor="health") for one in found if one.kind in ("small_class", "imbalance")
    )
    if trouble := problems(report):
        sentence = f"Look at the {words.count(trouble.n, 'problem')} in the folder."
        if trouble.n == len(trouble.rows) == 1:
            where, reason = trouble.rows[0]
            sentence = f"Look at {where}: {reason}."
        yield Action(sentence, anchor="problems")


def _suspicious(report: Json, found: list[Finding]) -> Iterator[Action]:
    """Images that may lie in the wrong folder, unless the health check says that the model is to blame."""
    n_suspicious = len(objects(report.get("mislabelled")))
    said = next((one for one in found if one.kind == "mislabelled"), None)
    if said is not None and said.rank <= 1:
        yield Action(said.sentence, anchor="mislabelled" if n_suspicious else "health")
    elif said is None and n_suspicious:
        images = words.count(n_suspicious, "image")
        yield Action(f"Look at the {images} that may lie in the wrong folder.", anchor="mislabelled")


def _weak_class(accuracy: float | None, classes: ClassTable | None, confused: list[Confusion]) -> str:
    """The class for which more pictures help most, and what it is taken for; "" if all do equally well."""
    if accuracy is None or classes is None or len(classes.rows) < 2:
        return ""
    weakest = classes.rows[0]
    if weakest.recall is None or weakest.recall > accuracy - WEAK_CLASS or weakest.support < 5:
        return ""
    pairs = confused[0].pairs if confused else []
    other = next((pair.predicted for pair in pairs if pair.truth == weakest.label), "")
    taken = f", and it is most often taken for “{other}”" if other else ""
    return (
        f"Add images of “{weakest.label}”: only {words.percent(weakest.recall, 0)} of them "
        f"are recognised{taken}."
    )


def _still_rises(report: Json) -> bool:
    promised = number(part(report, "learning_curve", "gain").get("expected"))
    if promised is not None:
        return promised >= STILL_RISING
    points = [
        (n, accuracy)
        for one in objects(part(report, "learning_curve").get("points"))
        if (n := number(one.get("n_images"))) is not None
        and (accuracy := number(one.get("accuracy"))) is not None
    ]
    if len(points) < 2:
        return False
    points.sort()
    (before, accuracy_before), (last, accuracy_last) = points[-2:]
    if before <= 0 or last <= before:
        return False
    # The gain from the last step, as if it had doubled the pictures.
    steps_per_doubling = 0.693 / math.log(last / before)
    return (accuracy_last - accuracy_before) * min(1.0, steps_per_doubling) >= STILL_RISING
