"""Shows a pass as it goes: bars on a terminal, a line now and then in a pipe.

The same view serves `tlserve train` (events of the trainer), `tlserve watch` and `tlserve demo` (events
of a daemon); each hands over `Step`s.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.text import Text

from tlserve.cli import wording
from tlserve.cli.terminal import to_stderr

PLAIN_PAUSE_SECONDS = 2.0

_DOING = {
    "settling": "waiting for quiet",
    "queued": "queued",
    "scanning": "reading the folder",
    "extracting": "running the backbone",
    "training": "training the head",
    "judging": "judging",
    "publishing": "publishing",
    "swapping": "going live",
}


@dataclass(frozen=True, slots=True)
class Step:
    """Where a pass stands. `done` of `total` images or fits; 0 of 0 where nothing is counted."""

    phase: str
    done: int = 0
    total: int = 0
    per_second: float | None = None
    seconds_left: float | None = None
    note: str = ""
    part: str = ""
    """Where the work has parts that each go through these phases: which one this is."""


class PassView:
    """A context manager that shows the steps of one pass; phases that are over stay as done lines."""

    def __init__(
        self,
        console: Console | None = None,
        *,
        indent: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or to_stderr()
        self._indent = indent
        self._clock = clock
        self._bars: Progress | None = None
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._now, self._note = ("", ""), ""
        self._said_at = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bars = Progress(
                *([TextColumn(self._indent[1:])] if self._indent else []),
                SpinnerColumn(finished_text="[green]+[/]"),
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                TextColumn("{task.fields[detail]}", style="dim"),
                console=self._console,
            )
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._bars:
            if kind is None:
                self._finish(self._now)
            self._bars.stop()

    def show(self, step: Step) -> None:
        """One more step; steps of phases that are no work (idle, waiting, failed) are left to the caller."""
        if step.phase not in _DOING:
            return
        if self._bars:
            self._show_bar(self._bars, step)
        elif self._is_news(step) or self._clock() - self._said_at > PLAIN_PAUSE_SECONDS:
            self._said_at, self._note = self._clock(), step.note
            self._console.print(self._indent + plain_line(step), soft_wrap=True)
        self._now = (step.part, step.phase)

    def _is_news(self, step: Step) -> bool:
        return (step.part, step.phase) != self._now or step.note not in ("", self._note)

    def say(self, text: Text | str) -> None:
        """A line above the bars."""
        self._console.print(text, soft_wrap=True)

    def _show_bar(self, bars: Progress, step: Step) -> None:
        at = (step.part, step.phase)
        if at != self._now:
            self._finish(self._now)
        if at not in self._tasks:
            self._tasks[at] = bars.add_task(_doing(step), total=None, detail="")
        detail = wording.rate(step.done, step.total, step.per_second, step.seconds_left) or step.note
        bars.update(self._tasks[at], completed=step.done, total=step.total or None, detail=detail)

    def _finish(self, at: tuple[str, str]) -> None:
        """The bar of a phase that is over stands full, however rarely it was updated."""
        if self._bars and at in self._tasks:
            task = self._bars.tasks[self._tasks[at]]
            total = task.total or 1
            self._bars.update(task.id, completed=total, total=total)


def plain_line(step: Step) -> str:
    """`running the backbone: 120 of 2,934, 210/s, 13.4 s left`."""
    counted = wording.rate(step.done, step.total, step.per_second, step.seconds_left)
    parts = [part for part in (counted, step.note) if part]
    return _doing(step) + (": " + "; ".join(parts) if parts else "")


def _doing(step: Step) -> str:
    return f"{step.part}: {_DOING[step.phase]}" if step.part else _DOING[step.phase]
