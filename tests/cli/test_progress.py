"""How a pass is shown while it runs."""

from __future__ import annotations

import io

from rich.console import Console

from tlserve.cli.progress import PassView, Step


def show(steps: list[Step], *, terminal: bool, times: list[float] | None = None) -> str:
    clock = iter(times or [float(n) for n in range(1000)])
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=120, highlight=False)
    with PassView(console, clock=lambda: next(clock)) as view:
        for step in steps:
            view.show(step)
    return file.getvalue()


def test_a_pipe_gets_one_plain_line_for_each_phase() -> None:
    text = show([Step("scanning"), Step("extracting", 5, 10, 50.0, 0.1), Step("training")], terminal=False)
    assert text.splitlines() == [
        "reading the folder",
        "running the backbone: 5 of 10, 50/s, 0.10 s left",
        "training the head",
    ]


def test_a_pipe_is_not_flooded_by_a_long_phase() -> None:
    steps = [Step("extracting", done, 100) for done in range(100)]
    times = [0.1 * n for n in range(1, 400)]
    assert 2 <= len(show(steps, terminal=False, times=times).splitlines()) <= 12


def test_a_pipe_gets_each_thing_that_is_said_of_a_phase_once() -> None:
    steps = [Step("extracting", note="trying int8"), Step("extracting", note="trying int8")]
    steps += [Step("extracting", 5, 10), Step("extracting", note="int8: taken")]
    assert show(steps, terminal=False, times=[0.1 * n for n in range(1, 40)]).splitlines() == [
        "running the backbone: trying int8",
        "running the backbone: int8: taken",
    ]


def test_a_terminal_gets_bars_that_end_full() -> None:
    text = show([Step("extracting", 5, 10, 50.0, 0.1), Step("training")], terminal=True)
    assert "running the backbone" in text
    assert text.count("━" * 30) >= 2


def test_phases_that_are_no_work_are_not_shown() -> None:
    assert show([Step("idle"), Step("waiting"), Step("failed")], terminal=False) == ""


def test_parts_of_the_work_have_lines_and_bars_of_their_own() -> None:
    steps = [Step("extracting", part="a"), Step("training", part="a"), Step("extracting", part="b")]
    assert show(steps, terminal=False).splitlines() == [
        "a: running the backbone",
        "a: training the head",
        "b: running the backbone",
    ]
    text = show(steps, terminal=True)
    assert "a: running the backbone" in text
    assert "b: running the backbone" in text
