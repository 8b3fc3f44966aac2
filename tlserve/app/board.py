"""What each model is doing now, as people are told: one record a model, changed by what happens to it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from tlserve.core.lifecycle import MOVES, Phase, move
from tlserve.core.messages import PassDone, Progress, SnapshotTaken
from tlserve.core.tuning import TuneProgress, TuneStage
from tlserve.rpc.backend import ModelEvent

log = logging.getLogger("tlserve.models")

_OUTCOME_PHASES = {
    "published": Phase.IDLE,
    "unchanged": Phase.IDLE,
    "cancelled": Phase.IDLE,
    "waiting": Phase.WAITING,
    "disappeared": Phase.WAITING,
    "failed": Phase.FAILED,
}
_WORKING = frozenset(Phase) - {Phase.IDLE, Phase.WAITING, Phase.FAILED, Phase.SETTLING, Phase.QUEUED}


@dataclass(frozen=True, slots=True)
class ModelNow:
    """What is known of one model's folder and work. Which version is live is not kept here."""

    model: str
    phase: Phase = Phase.IDLE
    message: str = "not looked at yet"
    counts: dict[str, int] = field(default_factory=dict)
    n_images: int = 0
    problems: tuple[tuple[str, str, str], ...] = ()
    n_problems: int = 0
    done: int = 0
    total: int = 0
    per_second: float | None = None
    seconds_left: float | None = None
    tuning: str = ""
    """Where a fine-tuning of it stands, beside all the rest; empty without one."""


class Board:
    """The records of all models, and the news about them.

    publish: called with every event worth telling.
    """

    def __init__(self, publish: Callable[[ModelEvent], None]) -> None:
        self._publish = publish
        self._models: dict[str, ModelNow] = {}
        self._last_ends: dict[str, tuple[str, str]] = {}

    def now(self, model: str) -> ModelNow:
        return self._models.get(model) or ModelNow(model)

    def known(self) -> list[str]:
        return sorted(self._models)

    def keep(self, models: Collection[str]) -> None:
        """Forget models that are neither on disk nor at work: a folder renamed soon after it was made."""
        for model in [m for m in self.known() if m not in models and self.now(m).phase not in _WORKING]:
            del self._models[model]
            self._last_ends.pop(model, None)

    def hinted(self, model: str) -> None:
        """The watcher saw something change; shown only while nothing else goes on."""
        if Phase.SETTLING in MOVES[self.now(model).phase]:
            self._enter(model, Phase.SETTLING, "a change was noticed; waiting for the folder to be quiet")

    def queued(self, model: str) -> None:
        if Phase.QUEUED in MOVES[self.now(model).phase] and self.now(model).phase not in _WORKING:
            self._update(model, phase=Phase.QUEUED)

    def progressed(self, progress: Progress) -> None:
        old = self.now(progress.model)
        self._update(
            progress.model,
            phase=move(progress.model, old.phase, progress.phase),
            done=progress.done,
            total=progress.total,
            per_second=progress.per_second,
            seconds_left=progress.seconds_left,
            message=in_words(progress),
        )
        kind = "phase" if progress.phase is not old.phase else "progress"
        # A routine look at an unchanged folder is no news, and it starts with a scan.
        if progress.phase is not Phase.SCANNING or progress.total:
            self._tell(progress.model, kind, in_words(progress))

    def snapshot(self, taken: SnapshotTaken) -> None:
        old = self.now(taken.model)
        problems = tuple((p.kind, p.where, p.reason) for p in taken.problems)
        self._update(
            taken.model,
            counts=taken.counts,
            n_images=taken.n_images,
            problems=problems,
            n_problems=taken.n_problems,
        )
        if taken.files_opened:
            n_classes = len(taken.counts)
            classes = f"{n_classes} class{'' if n_classes == 1 else 'es'}"
            self._tell(taken.model, "snapshot", f"{taken.n_images} usable images in {classes}")
        for kind, where, reason in problems:
            if (kind, where, reason) not in old.problems:
                self._tell(taken.model, "problem", f"{where}: {reason}")

    def swapping(self, model: str, version: int) -> None:
        self._enter(model, Phase.SWAPPING, f"version {version} is going live")

    def ended(self, done: PassDone) -> None:
        """A pass ended; "nothing changed" is not news."""
        old = self.now(done.model)
        phase = _OUTCOME_PHASES[done.outcome]
        reason = _without_name(done.model, done.reason)
        last, self._last_ends[done.model] = self._last_ends.get(done.model), (done.outcome, reason)
        news = done.outcome not in ("unchanged", "published") and last != (done.outcome, reason)
        self._update(
            done.model,
            phase=move(done.model, old.phase, phase),
            message=reason,
            done=0,
            total=0,
            per_second=None,
            seconds_left=None,
        )
        if news:
            self._tell(done.model, "phase", reason)

    def tuning(self, model: str, words: str) -> None:
        """Where a fine-tuning stands; empty when it is over."""
        old = self.now(model).tuning
        self._update(model, tuning=words)
        if words and words != old:
            self._tell(model, "tuning", words)

    def said(self, model: str, kind: str, message: str, version: int | None = None) -> None:
        """Something happened that is neither progress nor the end of a pass."""
        self._tell(model, kind, message, version)

    def _enter(self, model: str, phase: Phase, message: str) -> None:
        self._update(model, phase=move(model, self.now(model).phase, phase), message=message)
        self._tell(model, "phase", message)

    def _update(self, model: str, **changes: object) -> None:
        self._models[model] = replace(self.now(model), **changes)  # type: ignore[arg-type]

    def _tell(self, model: str, kind: str, message: str, version: int | None = None) -> None:
        now = self.now(model)
        stuck = kind == "phase" and now.phase in (Phase.FAILED, Phase.WAITING)
        alarming = kind == "problem" or stuck
        level = logging.WARNING if alarming else logging.INFO
        log.log(logging.DEBUG if kind in ("progress", "tuning") else level, "%s: %s", model, message)
        self._publish(
            ModelEvent(
                model=model,
                at=time.time(),
                kind=kind,
                message=message,
                phase=now.phase.value,
                version=version,
                done=now.done,
                total=now.total,
                per_second=now.per_second,
                seconds_left=now.seconds_left,
            )
        )


def _without_name(model: str, message: str) -> str:
    """Errors name their model; beside the name that is once too often."""
    return message.removeprefix(f"model {model!r}: ")


_DOING = {
    Phase.SCANNING: "looking through the folder",
    Phase.EXTRACTING: "passing images through the backbone",
    Phase.TRAINING: "training the head",
    Phase.JUDGING: "judging",
    Phase.PUBLISHING: "publishing",
}


def in_words(progress: Progress) -> str:
    """Progress as a sentence."""
    words = progress.note or _DOING.get(progress.phase, progress.phase.value)
    if progress.total:
        words += f", {progress.done} of {progress.total}"
    if progress.per_second:
        words += f", {progress.per_second:.0f} images/s"
    if progress.seconds_left:
        words += f", {progress.seconds_left:.0f} s left"
    return words


def tuning_in_words(progress: TuneProgress) -> str:
    """The progress of a fine-tuning as a sentence."""
    if progress.stage is TuneStage.CACHING:
        words = f"fine-tuning: preparing, {progress.done:,} of {progress.total:,} pictures"
    else:
        words = f"fine-tuning: epoch {progress.epoch} of {progress.of}"
    if progress.loss is not None:
        words += f", loss {progress.loss:.3f}"
    if progress.validation_accuracy is not None:
        words += f", {progress.validation_accuracy:.1%} right on validation images"
    if progress.seconds_left:
        words += f", at most {_duration(progress.seconds_left)} left"
    return words


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
