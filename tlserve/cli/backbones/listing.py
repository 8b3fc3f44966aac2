"""The list of backbones: a table that fits a terminal, however many names the plugins offer."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.table import Table
from rich.text import Text

from tlserve.cli import wording
from tlserve.cli.failing import FAILED, complain
from tlserve.cli.options import DEFAULT_ADDRESS, connect
from tlserve.cli.terminal import say, show, show_json, table, terminal_columns

if TYPE_CHECKING:
    from tlserve.rpc.backend import BackboneLine

MANY = 30
"""A plugin that offers more names than this gets one line for all that nobody measured here."""
MOST_HITS = 100
"""More names than this that fit `--only` are summed up too; `--all` shows them."""
SHORTEST_LICENCE, LONGEST_LICENCE, LONGEST_LICENCE_IN_A_PIPE = 13, 30, 60
LONGEST_NAME = 52
_HEADINGS = ("backbone", "input", "params", "row", "images/s", "licence")
_GAP = 2


@dataclass(frozen=True, slots=True)
class Shown:
    """The catalogue, sorted for people."""

    rows: Sequence[BackboneLine]
    left_out: dict[str, int]
    """How many more names each plugin offers."""
    broken: Sequence[BackboneLine]


def list_backbones(
    *,
    only: str | None,
    everything: bool,
    address: str | None,
    config: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Show what there is. Exit code 1 when nothing matches `only`."""
    listed = ask_for_backbones(address, config, state)
    found = listed if only is None else [line for line in listed if matches(line, only)]
    if as_json:
        show_json(found)
    elif not listed:
        say("The daemon has not listed its backbones yet; ask again in a moment.")
    elif found:
        few = only is not None and len(found) <= MOST_HITS
        show_backbones(chosen(found, everything=everything or few), only=only)
    if listed and not found:
        complain(f"no backbone has {only!r} in its name; list all: tlserve backbones --all")
        raise typer.Exit(FAILED)


def ask_for_backbones(address: str | None, config: Path | None, state: Path | None) -> Sequence[BackboneLine]:
    """From the daemon; from the plugins here where none runs and no address was given."""
    from tlserve.client import NobodyListens

    try:
        with connect(DEFAULT_ADDRESS if address is None else address) as client:
            return client.backbones()
    except NobodyListens:
        if address is not None:
            raise
    from tlserve.app import survey_backbones_once
    from tlserve.settings import load_settings

    say(f"No daemon answers at {DEFAULT_ADDRESS}; the plugins installed here were asked.")
    return survey_backbones_once(load_settings({"state": state}, config), ()).offered


def matches(line: BackboneLine, pattern: str) -> bool:
    """Whether a name has the text in it; a pattern with * or ? must fit all of it, or all behind its prefix.
    Case is ignored.

    A broken plugin has no names, but answers for all that would begin with its prefix.
    """
    pattern, name = pattern.casefold(), line.name.casefold()
    if line.error:
        return pattern.partition("/")[0] in name or fnmatchcase(name, pattern.partition("/")[0])
    if not set(pattern) & set("*?"):
        return pattern in name
    return fnmatchcase(name, pattern) or fnmatchcase(name.partition("/")[2], pattern)


def chosen(found: Sequence[BackboneLine], *, everything: bool) -> Shown:
    """Which lines to show; of a plugin with very many names only those that are measured here."""
    sound = [line for line in found if not line.error]
    offered = Counter(line.plugin for line in sound)
    rows = [
        line
        for line in sound
        if everything or offered[line.plugin] <= MANY or line.images_per_second is not None
    ]
    offered.subtract(line.plugin for line in rows)
    left_out = {plugin: n for plugin, n in offered.items() if n}
    return Shown(rows, left_out, [line for line in found if line.error])


def show_backbones(shown: Shown, *, only: str | None = None) -> None:
    """Table, summaries and errors to stdout; how to read and go on to stderr.

    only: the pattern that these lines fit.
    """
    if shown.rows:
        show(backbones_table(shown.rows, terminal_columns()))
    for plugin, n in shown.left_out.items():
        more = "more " if any(line.plugin == plugin for line in shown.rows) else ""
        words = f"{n:,} {more}backbones: {_how_to_see(plugin, n, only)}"
        show(Text.assemble((f"{plugin}/... ", "bold"), words))
    for line in shown.broken:
        show(Text(f"{line.name}: {line.error}", style="red"))
    if any(line.measured == "files" for line in shown.rows):
        say(Text("~ with reading and decoding the files, as measured while learning", style="dim"))
    if any(wording.NOTHING in _facts(line) for line in shown.rows):
        say(Text("-: not known before it is loaded; tlserve backbones show NAME", style="dim"))
    say(Text("All about one, and its speed: tlserve backbones show NAME [--measure]", style="dim"))


def _how_to_see(plugin: str, n: int, only: str | None) -> str:
    """The command that shows what is summed up."""
    if only is not None:
        return f"a narrower pattern, or tlserve backbones --only {shlex.quote(only)} --all"
    if n <= MOST_HITS:
        return f"tlserve backbones --only '{plugin}/*'"
    return f"tlserve backbones --only '{plugin}/*PART*', or --all"


def backbones_table(lines: Sequence[BackboneLine], columns: int | None) -> Table:
    """columns: of the terminal, where licences are cut to what fits and long names folded; None in a pipe."""
    rows = [_cells(line) for line in lines]
    room = LONGEST_LICENCE_IN_A_PIPE
    if columns is not None:
        widths = [max(map(len, column)) for column in zip(_HEADINGS, *rows, strict=True)]
        taken = min(widths[0], LONGEST_NAME) + sum(widths[1:-1]) + _GAP * (len(widths) - 1) + 1
        room = min(max(columns - taken, SHORTEST_LICENCE), LONGEST_LICENCE)
    rows = [(*row[:-1], _cut(row[-1], room)) for row in rows]
    grid = table(_HEADINGS, rows, right=("input", "params", "row", "images/s"))
    for column in grid.columns[1:]:
        column.no_wrap = True
    return grid


def _cells(line: BackboneLine) -> tuple[str, ...]:
    speed = wording.NOTHING
    if line.images_per_second is not None:
        speed = f"{'~' if line.measured == 'files' else ''}{wording.speed(line.images_per_second)}"
    *facts, licence = _facts(line)
    return (line.name, *facts, speed, licence)


def _facts(line: BackboneLine) -> tuple[str, ...]:
    """Input, parameters, row and licence: what a plugin may tell before it loads a backbone."""
    return (
        wording.NOTHING if line.width is None else _size(line.width, line.height or line.width),
        wording.NOTHING if line.n_parameters is None else wording.parameters(line.n_parameters),
        wording.NOTHING if line.row_width is None else f"{line.row_width:,}",
        " ".join((line.licence or wording.NOTHING).split()),
    )


def _size(width: int, height: int) -> str:
    return str(width) if width == height else f"{width}x{height}"


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 1]}…"
