"""Where text goes and what it looks like: colours and boxes for people, plain lines for pipes.

Names that users chose (models, classes, paths) are never read as Rich markup.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TextIO

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

PIPE_COLUMNS = 10_000
"""A piped line is never wrapped or cut: whoever reads it may be a program."""

Cell = str | Text


def to_stdout() -> Console:
    """The console for data. Made on each call, since tests and shells replace `sys.stdout`."""
    return _console(sys.stdout)


def to_stderr() -> Console:
    """The console for what is said to the person."""
    return _console(sys.stderr)


def _console(file: TextIO) -> Console:
    columns = None if file.isatty() else PIPE_COLUMNS
    return Console(file=file, width=columns, highlight=False, markup=False, emoji=False)


@dataclasses.dataclass(frozen=True)
class Listing:
    """A table with a sentence to each row: below the row on a terminal, as the last column in a pipe."""

    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    sentences_heading: str
    sentences: Sequence[str]
    right: Sequence[str] = ()


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    right: Sequence[str] = (),
    one_line: bool = False,
) -> Table:
    """A table without frames; columns named in `right` are aligned to the right.

    one_line: cut what does not fit instead of folding it.
    """
    grid = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold"
    )
    for heading in headings:
        side: Literal["left", "right"] = "right" if heading in right else "left"
        grid.add_column(heading, justify=side, no_wrap=one_line, overflow="ellipsis" if one_line else "fold")
    for row in rows:
        grid.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    return grid


def show(item: Table | Text | str) -> None:
    """Data to stdout; in a pipe without lines under headings and without padding at the end."""
    console = to_stdout()
    if console.is_terminal:
        console.print(item)
        return
    if isinstance(item, Table):
        item.box, item.padding = None, (0, 2, 0, 0)
    with console.capture() as captured:
        console.print(item)
    for line in captured.get().splitlines():
        print(line.rstrip(), file=sys.stdout)


def terminal_columns() -> int | None:
    """How wide stdout is; None where it is no terminal."""
    console = to_stdout()
    return console.width if console.is_terminal else None


def show_listing(listing: Listing) -> None:
    """A listing to stdout, shaped for whoever reads there."""
    console = to_stdout()
    if not console.is_terminal:
        rows = [(*row, sentence) for row, sentence in zip(listing.rows, listing.sentences, strict=True)]
        show(table((*listing.headings, listing.sentences_heading), rows, right=listing.right))
        return
    with console.capture() as captured:
        console.print(table(listing.headings, listing.rows, right=listing.right, one_line=True))
    heading, rule, *lines = captured.get().splitlines()
    print(heading, rule, sep="\n")
    for line, sentence in zip(lines, listing.sentences, strict=True):
        print(line)
        if sentence:
            console.print(Padding(Text(sentence, style="dim"), (0, 0, 0, 4)))


def say(item: Text | str = "") -> None:
    """A line to the person, on stderr."""
    to_stderr().print(item, soft_wrap=True)


def say_folded(text: str, *, indent: int) -> None:
    """A line to the person, on stderr; on a terminal folded between words, below its own indent."""
    console = to_stderr()
    if console.is_terminal:
        console.print(Padding(Text(text), (0, 0, 0, indent)))
    else:
        console.print(" " * indent + text, soft_wrap=True)


def show_json(value: Any) -> None:
    """`value` (dataclasses welcome) as JSON on stdout, and nothing else."""
    print(json.dumps(_plain(value), indent=2, ensure_ascii=False), file=sys.stdout)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
