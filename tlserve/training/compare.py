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
from tlserve.training.search import Attempt

MOST_FLOPS = 3e11
"""What one kind may cost in a comparison on a CPU: about 20 seconds of one core."""
FLOPS_PER_ROW = 1.5e8
"""And for each row there is: so that few images are compared in a second or two."""


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
    allowed = place.engine.speed * min(MOST_FLOPS, FLOPS_PER_ROW * len(exam.lesson.rows))
    times = method.flops(exam, lesson) / allowed
    if times > 1 and not (alone or method.kind is SIMPLEST):
        words = f"left out: it takes {times:.1f} times the arithmetic that a comparison of so many images allows"
        return Entry(method.kind, method, None, left_out=words)
    began = time.perf_counter()
    attempt = method.examine(exam, place)
    return Entry(method.kind, method, attempt, time.perf_counter() - began)


def choose(entries: Sequence[Entry], truth: Ints) -> Choice:
    """The best kind on unseen images, or the simplest that does as well.

    entries: in the order of HeadKind, at least one with an attempt. Two do equally well where the difference
    in accuracy, image by image, is within one standard error; of those the earlier is taken, unless its log
    loss is clearly (by two standard errors) worse.
    """
    tried = [(entry, entry.attempt) for entry in entries if entry.attempt is not None]
    right = np.array([attempt.chosen.logits.argmax(axis=1) == truth for _, attempt in tried], dtype=np.float64)
    loss = np.array([_losses(attempt, truth) for _, attempt in tried])
    best = int(np.lexsort((np.arange(len(tried)), loss.mean(axis=1), -right.mean(axis=1)))[0])
    for at, (entry, attempt) in enumerate(tried):
        if at == best or _ties(right[best] - right[at]) and not _worse(loss[at] - loss[best]):
            break
    why_not = {
        other.kind: _why_not(right[i] - right[at], loss[i] - loss[at], later=i > at)
        for i, (other, _) in enumerate(tried)
        if i != at
    }
    return Choice(entry, attempt, _sentence(tried, at, best), why_not)


def gains(before: Attempt, after: Attempt, truth: Ints) -> bool:
    """Whether the second attempt of a kind is better: its log loss beyond one standard error, and its
    accuracy no lower."""
    saved = _losses(before, truth) - _losses(after, truth)
    return after.chosen.accuracy >= before.chosen.accuracy and float(saved.mean()) > _error(saved)


def _losses(attempt: Attempt, truth: Ints) -> Float64:
    trial = attempt.chosen
    return log_losses(trial.logits, truth, trial.calibration.temperature, attempt.link).astype(np.float64)


def _error(difference: Float64) -> float:
    return float(difference.std() / np.sqrt(len(difference)))


def _ties(gain: Float64) -> bool:
    """Whether a gain in accuracy, (n,), is within its standard error."""
    return float(gain.mean()) <= _error(gain)


def _worse(loss: Float64) -> bool:
    """Whether a loss in excess, (n,), is beyond two standard errors."""
    return float(loss.mean()) > 2 * _error(loss)


def _why_not(right: Float64, loss: Float64, *, later: bool) -> str:
    points = 100 * float(right.mean())
    if points <= 0:
        return f"{-points:.1f} points less accurate" if points < 0 else "no more accurate"
    if later:
        return f"{points:.1f} points more accurate, within the noise of {100 * _error(right):.1f}; less simple"
    return f"its probabilities are worse (log loss {float(loss.mean()):+.3f})"


def _sentence(tried: Sequence[tuple[Entry, Attempt]], at: int, best: int) -> str:
    kind, attempt = tried[at][0].kind, tried[at][1]
    share = f"{100 * attempt.chosen.accuracy:.1f} %"
    if len(tried) == 1:
        return f"{kind} was the only kind compared: {share} on images left out."
    if at == best:
        return f"{kind} did best of {len(tried)} kinds: {share} on images left out."
    other = tried[best]
    return (
        f"{kind} gave {share} on images left out; {other[0].kind} gave {100 * other[1].chosen.accuracy:.1f} %, "
        "which is no more than chance, so the simpler is taken."
    )


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
