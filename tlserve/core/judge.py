"""Candidate against live on the same held-out images: promote or hold, with the reason in words.

Pure functions of scores and truth; nothing here acts. The rule (docs/adr/0002): a candidate is promoted
unless it is worse. It passes when the lower 95 % bound of the paired difference lies above -`max_drop`,
or when the difference as measured does and chance may explain it: a coin would lose as many images and
win as few at least once in twenty times. Below `MIN_EVIDENCE` images it passes unless it is clearly worse,
and there one in ten is clear enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import comb, erfc, sqrt
from typing import Literal

import numpy as np
import numpy.typing as npt

from tlserve.core.types import Probabilities

MIN_EVIDENCE = 30
Z95_TWO_SIDED = 1.959964
Z95_ONE_SIDED = 1.644854
SIGNIFICANT = 0.05
SIGNIFICANT_AMONG_FEW = 0.1
_TINY = 1e-12

Verdict = Literal["promote", "hold"]
Evidence = Literal["first", "weak", "strong"]
Columns = npt.NDArray[np.intp]
"""For each image, the column of its label in one version's answers; -1 where it does not know it."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What a candidate may cost."""

    max_drop: float = 0.01
    """Largest acceptable loss of accuracy, as a share (0.01 is one point)."""
    recall_floor: float = 0.0
    """No class may fall under this recall, unless the live version is no better there."""
    must_not_lose: bool = False
    """Of a candidate on the same images as the live version: nothing speaks for it if it is not as good."""
    must_gain: bool = False
    """Of a candidate that refines the live version: it must be better, or as often right and surer of it.

    Too few images to tell are no reason to do without the full recipe: there it must not be clearly worse.
    """


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
    columns = columns_of(truth, candidate.labels)
    own_hits = hits(columns, candidate, rows=columns >= 0)
    accuracy = float(own_hits.mean()) if own_hits.size else None
    low, high = wilson_interval(int(own_hits.sum()), own_hits.size) if own_hits.size else (None, None)
    classes = _by_class(truth, candidate, live)
    versus = compare(truth, candidate, live) if live is not None else None
    if live is None:
        ruling = Ruling("promote", "first", _first_reason(accuracy, low, high, own_hits.size))
    else:
        ruling = rule(versus, [c for c in classes if _fell(c, policy.recall_floor)], policy)
    return Decision(
        verdict=ruling.verdict,
        reason=ruling.reason,
        evidence=ruling.evidence,
        n_held_out=int(own_hits.size),
        accuracy=accuracy,
        accuracy_low=low,
        accuracy_high=high,
        live_accuracy=versus.live_accuracy if versus else None,
        difference=versus.difference if versus else None,
        difference_low=versus.lower if versus else None,
        n_compared=versus.n_images if versus else 0,
        only_candidate=tuple(sorted(set(candidate.labels) - set(live.labels))) if live else (),
        only_live=tuple(sorted(set(live.labels) - set(candidate.labels))) if live else (),
        classes=classes,
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both versions on the held-out images whose class both know, choosing among these classes."""

    n_images: int
    n_shared: int
    """Classes that both know."""
    same_classes: bool
    accuracy: float
    live_accuracy: float
    difference: float
    lower: float
    chance: float
    """How likely a coin, thrown for each image on which they disagree, is to treat the candidate as badly."""
    loss_saved: float = 0.0
    """By how much the candidate's mean log loss is lower, in nats."""

    @property
    def is_gain(self) -> bool:
        return self.difference > 0 or (self.difference == 0 and self.loss_saved > 0)

    def is_slight(self, max_drop: float) -> bool:
        """Whether the measured loss is within `max_drop`, or a single image, which weighs more than
        a point in a small set; with `max_drop` 0 nothing is slight."""
        return max_drop > 0 and self.difference >= -max(max_drop, 1 / self.n_images) - 1e-12

    def in_words(self) -> str:
        among = "" if self.same_classes else f" of the {self.n_shared} classes that both know"
        return (
            f"{self.accuracy:.1%} against {self.live_accuracy:.1%} of the live version on the same "
            f"{self.n_images} held-out images{among} "
            f"({self.difference * 100:+.1f} points, at worst {self.lower * 100:+.1f})"
        )


@dataclass(frozen=True, slots=True)
class Ruling:
    verdict: Verdict
    evidence: Evidence
    reason: str


def compare(truth: Sequence[str], candidate: Answers, live: Answers) -> Comparison | None:
    """The paired comparison; None when no two classes, or no image of them, are known to both."""
    shared = tuple(sorted(set(candidate.labels) & set(live.labels)))
    ours, theirs = columns_of(truth, candidate.labels), columns_of(truth, live.labels)
    both = (ours >= 0) & (theirs >= 0)
    if len(shared) < 2 or not both.any():
        return None
    mine = hits(ours, candidate, rows=both, among=shared)
    live_hits = hits(theirs, live, rows=both, among=shared)
    difference, lower, _ = paired_difference(mine, live_hits)
    chance = sign_test(int((mine & ~live_hits).sum()), int((live_hits & ~mine).sum()))
    return Comparison(
        n_images=len(mine),
        n_shared=len(shared),
        same_classes=set(candidate.labels) == set(live.labels),
        accuracy=float(mine.mean()),
        live_accuracy=float(live_hits.mean()),
        difference=difference,
        lower=lower,
        chance=chance,
        loss_saved=_log_loss(theirs, live, both, shared) - _log_loss(ours, candidate, both, shared),
    )


def rule(versus: Comparison | None, fallen: Sequence[ClassResult], policy: Policy) -> Ruling:
    """Promote unless worse. fallen: classes that fell under their recall floor."""
    if versus is None:
        words = "nothing to compare: no held-out image of two classes that both versions know"
        return Ruling("promote", "weak", words)
    evidence: Evidence = "strong" if versus.n_images >= MIN_EVIDENCE else "weak"
    points = policy.max_drop * 100
    accepted = f"{points:g} point{'' if points == 1 else 's'}"
    verdict: Verdict
    if fallen:
        names = ", ".join(f"{c.label} ({c.recall:.0%})" for c in fallen)
        verdict, why = "hold", f"recall under the floor of {policy.recall_floor:.0%} for {names}"
    elif policy.must_gain and evidence == "strong" and not versus.is_gain:
        verdict, why = "hold", "no better than the fast version that it refines"
    elif policy.must_gain and evidence == "strong" and versus.difference == 0:
        verdict, why = "promote", "as often right as the fast version, and surer of it"
    elif policy.must_gain and evidence == "strong":
        verdict, why = "promote", "better than the fast version that it refines"
    elif policy.must_not_lose and versus.difference < 0:
        verdict, why = "hold", "not as good, and learnt from the same images"
    elif evidence == "weak" and versus.chance < SIGNIFICANT_AMONG_FEW:
        verdict, why = "hold", "clearly worse, though on few images"
    elif evidence == "weak" and versus.difference < 0:
        verdict, why = "promote", "too few images to call it worse"
    elif versus.difference >= 0:
        verdict, why = "promote", "at least as good"
    elif versus.lower > -policy.max_drop:
        verdict, why = "promote", f"within the accepted drop of {accepted}"
    elif versus.is_slight(policy.max_drop) and versus.chance >= SIGNIFICANT:
        within = versus.difference >= -policy.max_drop - 1e-12
        loss = f"within the accepted drop of {accepted}" if within else "a single image"
        verdict, why = "promote", f"no more than chance, and {loss}"
    else:
        verdict, why = "hold", f"a drop of more than {accepted} cannot be ruled out"
    return Ruling(verdict, evidence, f"{why}: {versus.in_words()}")


def columns_of(truth: Sequence[str], labels: Sequence[str]) -> Columns:
    """Where each true label stands among `labels`: (n_images,), -1 for those that are not there."""
    index = {label: column for column, label in enumerate(labels)}
    return np.fromiter((index.get(label, -1) for label in truth), dtype=np.intp, count=len(truth))


def hits(
    columns: Columns, answers: Answers, *, rows: npt.NDArray[np.bool_], among: Sequence[str] | None = None
) -> npt.NDArray[np.bool_]:
    """Which of the chosen rows are answered right, choosing only `among` these labels: (n_chosen,) bool."""
    if among is None:
        best = answers.probabilities[rows].argmax(axis=1)
    else:
        choices = columns_of(among, answers.labels)
        best = choices[answers.probabilities[np.ix_(rows, choices)].argmax(axis=1)]
    return np.asarray(best == columns[rows], dtype=bool)


def _log_loss(columns: Columns, answers: Answers, rows: npt.NDArray[np.bool_], among: Sequence[str]) -> float:
    """Mean negative log probability of the true label among these labels, over the chosen rows."""
    choices = columns_of(among, answers.labels)
    shared = answers.probabilities[np.ix_(rows, choices)].astype(np.float64)
    own = answers.probabilities[rows, columns[rows]].astype(np.float64)
    return float(-np.log(np.maximum(own / np.maximum(shared.sum(axis=1), _TINY), _TINY)).mean())


def paired_difference(
    mine: npt.NDArray[np.bool_], theirs: npt.NDArray[np.bool_]
) -> tuple[float, float, float]:
    """Mean of mine - theirs with its one-sided 95 % bounds: (difference, lower, upper).

    The variance of a paired difference comes from the images on which the two disagree.
    Source: Agresti, Categorical Data Analysis, 10.1.1 (Wald interval for matched pairs).
    """
    delta = mine.astype(np.float64) - theirs.astype(np.float64)
    n = len(delta)
    mean = float(delta.mean())
    spread = Z95_ONE_SIDED * sqrt(max(float((delta**2).mean()) - mean**2, 0.0) / n)
    return mean, mean - spread, mean + spread


def sign_test(won: int, lost: int) -> float:
    """Chance of at least `lost` tails in won + lost throws of a coin; 1.0 without a throw.

    Exact where the normal interval fails: with one image, lost, that interval has no width at all.
    Above a thousand throws, its normal approximation. Source: Agresti, Categorical Data Analysis, 10.1.4.
    """
    n = won + lost
    if n > 1000:
        return 0.5 * erfc((lost - won - 1) / sqrt(2 * n))
    return float(sum(comb(n, k) for k in range(lost, n + 1)) / 2**n)


def wilson_interval(n_right: int, n: int, z: float = Z95_TWO_SIDED) -> tuple[float, float]:
    """95 % interval of a share. Source: Wilson 1927."""
    share = n_right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def _by_class(truth: Sequence[str], candidate: Answers, live: Answers | None) -> tuple[ClassResult, ...]:
    """Each class of the candidate that has held-out images, each version choosing among all it knows."""
    counts, recalls = _recalls(truth, candidate)
    live_recalls = _recalls(truth, live)[1] if live is not None else {}
    return tuple(
        ClassResult(label, counts[label], recalls[label], live_recalls.get(label))
        for label in candidate.labels
        if label in counts
    )


def _recalls(truth: Sequence[str], answers: Answers) -> tuple[dict[str, int], dict[str, float]]:
    columns = columns_of(truth, answers.labels)
    known = columns >= 0
    counts = np.bincount(columns[known], minlength=len(answers.labels))
    right = np.bincount(columns[known][hits(columns, answers, rows=known)], minlength=len(answers.labels))
    seen = [(label, int(n), int(r)) for label, n, r in zip(answers.labels, counts, right, strict=True) if n]
    return {label: n for label, n, _ in seen}, {label: r / n for label, n, r in seen}


def _fell(result: ClassResult, floor: float) -> bool:
    return result.live_recall is not None and result.recall < floor and result.recall < result.live_recall


def _first_reason(accuracy: float | None, low: float | None, high: float | None, n: int) -> str:
    if accuracy is None or low is None or high is None:
        return "first version; too few images to hold any out, so its accuracy is not known"
    return f"first version: {accuracy:.1%} on {n} held-out images (95 % interval {low:.1%} to {high:.1%})"
