"""The live head's kind, fitted anew on rows in memory from where it stands, if there is time for it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from tlserve.core.head import Head
from tlserve.core.plan import HeadKind
from tlserve.training.arrays import Float32, Float64, Ints
from tlserve.training.compare import Entry
from tlserve.training.engine import Fits, scores
from tlserve.training.instant_kept import Kept, Start
from tlserve.training.lesson import Lesson
from tlserve.training.linear import loss_and_gradient, solve
from tlserve.training.margins import OVR, SOFTMAX, SVM, LinearMethod
from tlserve.training.method import LastFit, Older, Workplace
from tlserve.training.search import Attempt, Trial

WARM: dict[HeadKind, LinearMethod] = {one.kind: one for one in (SOFTMAX, OVR, SVM)}
"""Kinds that can begin where another head stands."""
COLD_EVALUATIONS, WARM_EVALUATIONS = 40, 12
"""Of the loss, that a fit takes from nothing and from where a fit on nearly the same rows ended."""
USUAL_STEP = 4
"""Of the grid of C, where the live head's is not known."""
PROBED_ROWS = 512
NEAR = 2e-5
"""The full recipe goes nearer to the optimum; accuracy does not tell the difference."""


@dataclass(frozen=True, eq=False)
class LiveHead:
    """The head before this one: its kind, and the C it was fitted with, if that is known."""

    head: Head
    kind: HeadKind
    setting: float | None = None


def refused(kept: Kept, live: LiveHead | None) -> str:
    """Why the live head's kind is not fitted anew, whatever the time; empty if it may be."""
    if live is None:
        return "there is no live head on these rows"
    if live.kind not in WARM:
        return f"{live.kind} cannot begin where another head stands"
    if kept.teaching is None:
        return f"the rows of {kept.n_images:,} images are not kept in memory"
    return ""


def examine(
    kept: Kept,
    names: tuple[str, ...],
    truth: Ints,
    live: LiveHead,
    place: Workplace,
    *,
    seconds_left: float,
) -> Entry:
    """The kind as the validating images judge a fit on the teaching ones, or why there was no time for it.

    It begins at the fit before it on the teaching images, never at the live head, which has seen them all.
    """
    began, method = time.perf_counter(), WARM[live.kind]
    lesson = kept.lesson(names, everything=False)
    fits = _fits(lesson, method)
    start = kept.starts.get(live.kind)
    n_evaluations = WARM_EVALUATIONS + (COLD_EVALUATIONS if start is None else WARM_EVALUATIONS)
    needed = n_evaluations * _seconds_of_one(fits, place) * kept.n_images / max(1, len(lesson.rows))
    if needed > seconds_left:
        reason = f"left out: it would take about {needed:.2f} s of the {max(0.0, seconds_left):.2f} s left"
        return Entry(live.kind, method, None, left_out=reason)
    penalty_c = live.setting or method.grid[USUAL_STEP] / lesson.rows.shape[1]
    begin = None if start is None else start.on(names)[None]
    found = _solved(fits, penalty_c, begin, place)
    kept.starts[live.kind] = Start(names, found)
    logits = _scores(found, kept.validating.rows)
    trial = Trial.of(penalty_c, logits, truth, link=method.link, usual=method.usual, parameters=found)
    attempt = Attempt(live.kind, method.link, "C", trial, (trial,))
    return Entry(live.kind, method, attempt, time.perf_counter() - began)


def fit(kept: Kept, names: tuple[str, ...], attempt: Attempt, live: LiveHead, place: Workplace) -> LastFit:
    """On all images, from the live head or from the fit on the teaching images, whichever is nearer."""
    method, penalty_c, own = WARM[live.kind], attempt.chosen.setting, attempt.chosen.parameters
    fits = _fits(kept.lesson(names, everything=True), method)
    if own is None:
        own = np.zeros(fits.shape[1:])
    theirs = Older(live.head, names, kept.taps).parameters(method.link, kept.scaling, own)
    starts = [own] if theirs is None else [own, theirs]
    losses = [loss_and_gradient(fits, penalty_c, start.ravel(), place.engine)[0] for start in starts]
    begin = starts[int(np.argmin(losses))]
    found = _solved(fits, penalty_c, begin[None], place)
    return LastFit((kept.scaling.fold_in(found),), begin is theirs)


def _solved(fits: Fits, penalty_c: float, begin: Float64 | None, place: Workplace) -> Float64:
    found = solve(fits, penalty_c, begin, place.cancelled, place.engine, relative_tolerance=NEAR)
    return np.asarray(found[0])


def _fits(lesson: Lesson, method: LinearMethod) -> Fits:
    return Fits(lesson.rows, lesson.targets, lesson.weights[None], lesson.n_classes, method.loss)


def _seconds_of_one(fits: Fits, place: Workplace) -> float:
    """What an evaluation of the loss takes, told from some rows."""
    part = Fits(
        fits.rows[:PROBED_ROWS],
        fits.targets[:PROBED_ROWS],
        fits.row_weights[:, :PROBED_ROWS],
        fits.n_classes,
        fits.loss,
    )
    parameters = np.zeros(part.shape).ravel()
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        loss_and_gradient(part, 1.0, parameters, place.engine)
        seconds.append(time.perf_counter() - began)
    return min(seconds) * len(fits.rows) / max(1, len(part.rows))


def _scores(parameters: Float64, rows: Float32) -> Float32:
    return np.asarray(scores(parameters[None].astype(np.float32), rows)[0].T)
