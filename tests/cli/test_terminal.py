"""Tables for people and for pipes."""

from __future__ import annotations

import os
import pty
import sys

import pytest

from tlserve.cli.terminal import Listing, show, show_json, show_listing, table

NAME = "[red]tulips[/red] :smile:"


def test_names_are_never_read_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    show(table(("class",), [(NAME,)]))
    assert capsys.readouterr().out.splitlines() == ["class", NAME]


def test_a_listing_in_a_pipe_is_one_line_for_each_row(capsys: pytest.CaptureFixture[str]) -> None:
    show_listing(Listing(("model", "live"), [("flowers", "2"), ("bees", "1")], "message", ["a " * 200, ""]))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["model", "flowers", "bees"]
    assert lines[1].count("a") == 200


def test_a_listing_on_a_terminal_puts_the_sentence_below_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    outer, inner = pty.openpty()
    with os.fdopen(inner, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setenv("COLUMNS", "60")
        monkeypatch.setenv("TERM", "dumb")
        show_listing(Listing(("model", "live"), [("flowers", "2"), ("bees", "1")], "message", ["why", "how"]))
        terminal.flush()
        text = ""
        while "how" not in text:  # a terminal hands over what it has, a line or all
            text += os.read(outer, 10_000).decode()
    os.close(outer)
    assert [line.split()[0] for line in text.splitlines() if line[0] != "─"] == [
        "model",
        "flowers",
        "why",
        "bees",
        "how",
    ]


def test_json_keeps_names_readable(capsys: pytest.CaptureFixture[str]) -> None:
    show_json([("Gänseblümchen", 1)])
    assert "Gänseblümchen" in capsys.readouterr().out
