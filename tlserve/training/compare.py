"""`head = "auto"`: every kind of head on the same folds, and which one the comparison speaks for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlserve.core.head import link_probabilities
from tlserve.core.plan import HeadKind
from tlserve.core.types import Probabilities
from tlserve.training.arrays import Float64, Ints
from tlserve.training.calibration import log_losses
from tlserve.training.lesson import Exam, Lesson
from tlserve.training.method import Method, Workplace
from tlserve.training.search import Attempt, Trial

MOST_FLOPS = 1e12
"""What one kind may cost in a comparison on a CPU: some 15 seconds of one core."""
SIMPLEST = next(iter(HeadKind))
"""Never left out."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One kind in a comparison: what came of it, or why it was left out."""

    kind: HeadKind
    method: Method
    attempt: Attempt | None
    seconds: float = 0.0
    left_out: str = ""


@dataclass(frozen=True, eq=False)
class Choice:
    """The kind to take, and why in one sentence; why_not: a few words for each other kind compared."""

    entry: Entry
    attempt: Attempt
    sentence: str
    why_not: dict[HeadKind, str]


def run_entry(method: Method, exam: Exam, lesson: Lesson, place: Workplace, *, alone: bool) -> Entry:
    """Cross-validate one kind; unless it is alone, only where it is affordable."""
    reason = "" if alone or method.kind is SIMPLEST else _left_out(method, exam, lesson, place)
    if reason:
        return Entry(method.kind, method, None, left_out=f"left out: {reason}")
    began = time.perf_counter()
    attempt = method.examine(exam, place)
    return Entry(method.kind, method, attempt, time.perf_counter() - began)


def attempt_of(entry: Entry) -> Attempt:
    """Of a kind that was tried."""
    if entry.attempt is None:
        raise ValueError(f"{entry.kind} was not tried")
    return entry.attempt


def too_dear(method: Method, exam: Exam, lesson: Lesson, place: Workplace) -> str:
    """Why a comparison cannot afford this kind, if it cannot."""
    times = method.flops(exam, lesson) / (MOST_FLOPS * place.engine.speed)
    return f"it takes {times:.1f} times the arithmetic that a comparison may" if times > 1 else ""


def _left_out(method: Method, exam: Exam, lesson: Lesson, place: Workplace) -> str:
    if len(exam.asked) < method.fewest_images:
        return f"from {method.fewest_images:,} images on it may be worth its time"
    dear = too_dear(method, exam, lesson, place)
    if not dear and not method.is_quick_on_cpu and place.engine.speed == 1:
        return f'without a GPU each drop would wait for it; name it to have it: head = "{method.kind}"'
    return dear


def choose(entries: Sequence[Entry], truth: Ints) -> Choice:
    """The best kind on unseen images, or the simplest that does as well.

    entries: in the order of HeadKind, at least one with an attempt. What counts is the sum of wrong answers
    and log loss (in nats, calibrated). A simpler one does as well as the best if their difference, image by
    image, is within one standard error, or if it is right as often.

    Over twelve sets, five fifths each (flowers, whole and 500 and 100 of them, ants and bees, from two
    backbones; digits, iris, wine, cancer; all kinds but MLP), this gave 88.66 % and a log loss of 0.335 on
    held-out images, and softmax in 30 of 60 cases; always softmax 88.29 and 0.338; the highest accuracy alone
    88.59 and 0.335, with softmax in 7; the lowest log loss alone 88.74 and 0.335, with softmax in 9.
    """
    tried = [(entry, entry.attempt) for entry in entries if entry.attempt is not None]
    shares = [attempt.chosen.accuracy for _, attempt in tried]
    faults = np.array([_faults(attempt, truth) for _, attempt in tried])
    best = int(faults.mean(axis=1).argmin())
    as_good = [_ties(faults[i] - faults[best]) or shares[i] >= shares[best] for i in range(len(tried))]
    at = as_good.index(True)
    entry, attempt = tried[at]
    why_not = {
        other.kind: _why_not(theirs.chosen, attempt.chosen, faults[i] - faults[at])
        for i, (other, theirs) in enumerate(tried)
        if i != at
    }
    return Choice(entry, attempt, _sentence([one for _, one in tried], at, best), why_not)


def gains(before: Attempt, after: Attempt, truth: Ints) -> bool:
    """Whether the second attempt does better than the first, by more than two standard errors.

    By one, chance alone would often see to it: further rows have to earn their keep.
    """
    saved = _faults(before, truth) - _faults(after, truth)
    return float(saved.mean()) > 2 * _error(saved)


def _faults(attempt: Attempt, truth: Ints) -> Float64:
    """(n,) for each image that was left out: 1 for a wrong answer, and the log loss."""
    trial = attempt.chosen
    wrong = trial.logits.argmax(axis=1) != truth
    losses = log_losses(trial.logits, truth, trial.calibration.temperature, attempt.link)
    return np.asarray(wrong + losses, dtype=np.float64)


def _error(difference: Float64) -> float:
    return float(difference.std() / np.sqrt(len(difference)))


def _ties(excess: Float64) -> bool:
    """Whether faults in excess, (n,), are within their standard error."""
    return float(excess.mean()) <= _error(excess)


def differs(other: Trial, chosen: Trial) -> str:
    """How much more the first gives than the second, in words."""
    # Rounded here, and a zero has no sign: nobody wants to read "-0.0 points".
    points = round(100 * (other.accuracy - chosen.accuracy), 1) + 0.0
    loss = round(other.calibration.nll_after - chosen.calibration.nll_after, 3) + 0.0
    return f"{points:+.1f} points of accuracy, {loss:+.3f} of log loss"


def _why_not(other: Trial, chosen: Trial, excess: Float64) -> str:
    worse = float(excess.mean()) > _error(excess)
    return f"{'worse' if worse else 'no better beyond chance'}: {differs(other, chosen)}"


def _sentence(attempts: Sequence[Attempt], at: int, best: int) -> str:
    kind, share = attempts[at].kind, _percent(attempts[at])
    if len(attempts) == 1:
        return f"{kind} was the only kind tried: {share} right on images left out."
    if at == best:
        return f"{kind} did best of {len(attempts)} kinds: {share} right on images left out."
    other = f"{attempts[best].kind} {_percent(attempts[best])}"
    if attempts[at].chosen.accuracy >= attempts[best].chosen.accuracy:
        return f"{kind}: {share} right on images left out; {other}, no more, and it is less simple."
    return (
        f"{kind}, the simplest of those that do equally well: {share} right on images left out, {other}, and "
        "chance alone makes such a difference."
    )


def _percent(attempt: Attempt) -> str:
    return f"{100 * attempt.chosen.accuracy:.1f} %"


def table(entries: Sequence[Entry], choice: Choice) -> list[dict[str, Any]]:
    """The comparison, ready for JSON."""
    found = []
    for entry in entries:
        line: dict[str, Any] = {"kind": entry.kind.value, "chosen": entry is choice.entry}
        if entry.attempt is not None:
            trial = entry.attempt.chosen
            line |= {
                "cv_accuracy": trial.accuracy,
                "nll": trial.calibration.nll_after,
                "ece": trial.calibration.ece_after,
                "seconds": round(entry.seconds, 4),
                "setting": {entry.attempt.setting_name: trial.setting},
            }
        line["why_not"] = entry.left_out or choice.why_not.get(entry.kind, "")
        found.append(line)
    return found


def answers(attempt: Attempt) -> Probabilities:
    """Calibrated answers for the images that were left out."""
    trial = attempt.chosen
    return link_probabilities(trial.logits, link=attempt.link, temperature=trial.calibration.temperature)
