"""Candidate against live on the same held-out images: promote or hold, with the reason in words.

Pure functions of scores and truth; nothing here acts. The rule (docs/adr/0002) is non-inferiority:
a candidate is promoted unless it is worse. It passes when it is at least as accurate as the live
version on the same images, or when the lower 95 % bound of the paired difference lies above
-`max_drop`. Below `MIN_EVIDENCE` images it passes unless it is clearly worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Literal

import numpy as np
import numpy.typing as npt

from tlserve.core.types import Probabilities

MIN_EVIDENCE = 30
Z95_TWO_SIDED = 1.959964
Z95_ONE_SIDED = 1.644854

Verdict = Literal["promote", "hold"]
Evidence = Literal["first", "weak", "strong"]


@dataclass(frozen=True, slots=True)
class Policy:
    """What a candidate may cost."""

    max_drop: float = 0.01
    """Largest acceptable loss of accuracy, as a share (0.01 is one point)."""
    recall_floor: float = 0.0
    """No class may fall under this recall, unless the live version is no better there."""


@dataclass(frozen=True, eq=False)
class Answers:
    """One version's probabilities on the held-out images: (n_images, len(labels))."""

    labels: tuple[str, ...]
    probabilities: Probabilities


@dataclass(frozen=True, slots=True)
class ClassResult:
    label: str
    n_held_out: int
    recall: float
    live_recall: float | None = None
    """None when the live version does not know the class."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the judge found. Shares lie in [0, 1]; None where there is nothing to compare."""

    verdict: Verdict
    reason: str
    evidence: Evidence
    n_held_out: int
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    live_accuracy: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    n_compared: int = 0
    only_candidate: tuple[str, ...] = ()
    only_live: tuple[str, ...] = ()
    classes: tuple[ClassResult, ...] = field(default=())


def judge(truth: Sequence[str], candidate: Answers, live: Answers | None, policy: Policy) -> Decision:
    """Decide whether `candidate` may replace `live` (None: there is no live version).

    truth: the label of each held-out image; rows of both Answers are in the same order.
    Accuracy is over images whose class the candidate knows. The comparison is over images whose class
    both know, each version choosing among the shared classes only: adding or removing a class is the
    user's will and must not look like a loss.
    """
    labels = np.asarray(truth, dtype=object)
    own = np.isin(labels, candidate.labels)
    own_hits = hits(labels[own], candidate, rows=own)
    accuracy = float(own_hits.mean()) if own_hits.size else None
    low, high = wilson_interval(int(own_hits.sum()), own_hits.size) if own_hits.size else (None, None)
    classes = _by_class(labels, candidate, live)

    def decision(verdict: Verdict, evidence: Evidence, reason: str, **more: float | int | None) -> Decision:
        return Decision(
            verdict=verdict,
            reason=reason,
            evidence=evidence,
            n_held_out=int(own_hits.size),
            accuracy=accuracy,
            accuracy_low=low,
            accuracy_high=high,
            only_candidate=tuple(sorted(set(candidate.labels) - set(live.labels))) if live else (),
            only_live=tuple(sorted(set(live.labels) - set(candidate.labels))) if live else (),
            classes=classes,
            **more,  # type: ignore[arg-type]
        )

    if live is None:
        return decision("promote", "first", _first_reason(accuracy, low, high, int(own_hits.size)))

    shared = tuple(sorted(set(candidate.labels) & set(live.labels)))
    both = np.isin(labels, shared)
    n = int(both.sum())
    if len(shared) < 2 or n == 0:
        return decision(
            "promote", "weak", "nothing to compare: no held-out image of two classes that both versions know"
        )
    mine = hits(labels[both], candidate, rows=both, among=shared)
    theirs = hits(labels[both], live, rows=both, among=shared)
    difference, lower, upper = paired_difference(mine, theirs)
    numbers = {
        "live_accuracy": float(theirs.mean()),
        "difference": difference,
        "difference_low": lower,
        "n_compared": n,
    }
    versus = (
        f"{mine.mean():.1%} against {theirs.mean():.1%} of the live version on the same {n} held-out images "
        f"({difference * 100:+.1f} points, at worst {lower * 100:+.1f})"
    )
    fallen = [c for c in classes if _fell(c, policy.recall_floor)]
    if fallen:
        names = ", ".join(f"{c.label} ({c.recall:.0%})" for c in fallen)
        reason = f"recall under the floor of {policy.recall_floor:.0%} for {names}; {versus}"
        return decision("hold", "strong" if n >= MIN_EVIDENCE else "weak", reason, **numbers)
    if n < MIN_EVIDENCE:
        if upper < 0:
            return decision("hold", "weak", f"clearly worse, on weak evidence: {versus}", **numbers)
        return decision("promote", "weak", f"not clearly worse, on weak evidence: {versus}", **numbers)
    if difference >= 0:
        return decision("promote", "strong", f"at least as good: {versus}", **numbers)
    if lower > -policy.max_drop:
        reason = f"within the accepted drop of {policy.max_drop * 100:g} points: {versus}"
        return decision("promote", "strong", reason, **numbers)
    reason = f"a drop of more than {policy.max_drop * 100:g} points cannot be ruled out: {versus}"
    return decision("hold", "strong", reason, **numbers)


def hits(
    truth: npt.NDArray[np.object_],
    answers: Answers,
    *,
    rows: npt.NDArray[np.bool_],
    among: tuple[str, ...] | None = None,
) -> npt.NDArray[np.bool_]:
    """Which of the chosen rows are answered right, choosing only `among` these labels: (n,) bool."""
    columns = [answers.labels.index(label) for label in among or answers.labels]
    names = np.asarray([answers.labels[c] for c in columns], dtype=object)
    if not rows.any():
        return np.zeros(0, dtype=bool)
    best = answers.probabilities[rows][:, columns].argmax(axis=1)
    return np.asarray(names[best] == truth, dtype=bool)


def paired_difference(mine: npt.NDArray[np.bool_], theirs: npt.NDArray[np.bool_]) -> tuple[float, float, float]:
    """Mean of mine - theirs with its one-sided 95 % bounds: (difference, lower, upper).

    The variance of a paired difference comes from the images on which the two disagree.
    Source: Agresti, Categorical Data Analysis, 10.1.1 (Wald interval for matched pairs).
    """
    delta = mine.astype(np.float64) - theirs.astype(np.float64)
    n = len(delta)
    mean = float(delta.mean())
    spread = Z95_ONE_SIDED * sqrt(max(float((delta**2).mean()) - mean**2, 0.0) / n)
    return mean, mean - spread, mean + spread


def wilson_interval(n_right: int, n: int, z: float = Z95_TWO_SIDED) -> tuple[float, float]:
    """95 % interval of a share. Source: Wilson 1927."""
    share = n_right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def _by_class(truth: npt.NDArray[np.object_], candidate: Answers, live: Answers | None) -> tuple[ClassResult, ...]:
    results = []
    for label in candidate.labels:
        rows = np.asarray(truth == label, dtype=bool)
        if not rows.any():
            continue
        recall = float(hits(truth[rows], candidate, rows=rows).mean())
        live_recall = None
        if live is not None and label in live.labels:
            live_recall = float(hits(truth[rows], live, rows=rows).mean())
        results.append(ClassResult(label, int(rows.sum()), recall, live_recall))
    return tuple(results)


def _fell(result: ClassResult, floor: float) -> bool:
    return result.live_recall is not None and result.recall < floor and result.recall < result.live_recall


def _first_reason(accuracy: float | None, low: float | None, high: float | None, n: int) -> str:
    if accuracy is None or low is None or high is None:
        return "first version; too few images to hold any out, so its accuracy is not known"
    return f"first version: {accuracy:.1%} on {n} held-out images (95 % interval {low:.1%} to {high:.1%})"
