"""`tlserve classify`: ask a model what is on some images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from tlserve.cli.failing import FAILED, complain
from tlserve.cli.options import DEFAULT_ADDRESS, Address, AsJson, ModelName, connect
from tlserve.cli.terminal import show_json, to_stdout

if TYPE_CHECKING:
    from tlserve.client import Classification

SUFFIXES = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
LABEL_COLUMNS, FILE_COLUMNS, OTHER_COLUMNS = 14, 20, 60
"""OTHER_COLUMNS: what a row needs beside its file, with a little of the runners-up."""


def classify(
    model: ModelName,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", exists=True, readable=True, help="Image files, or folders of them."),
    ],
    *,
    version: Annotated[
        str,
        typer.Option("--version", metavar="VERSION", help="A number, `live` (if not given) or `previous`."),
    ] = "",
    top_k: Annotated[int, typer.Option("--top", min=1, help="How many classes to show for each image.")] = 3,
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Classify image files. Images unlike anything in training are marked as unknown.

    A file that is no image is named on stderr, and the exit code is 1; the others are answered all the same.
    Answers are printed as they come; a folder stands for the images in it.
    """
    files = list(images_of(files))
    if not files:
        raise typer.BadParameter("no image files in that folder", param_hint="FILE")
    print_answer = AnswerLines(files)
    answered: list[tuple[Path, Classification]] = []
    try:
        with connect(address, timeout_seconds=None) as client:
            stream = client.classify_stream(model, files, version=version, top_k=top_k)
            for file, answer in zip(files, stream, strict=True):
                answered.append((file, answer))
                if answer.error:
                    complain(f"{file}: {answer.error}")
                elif not as_json:
                    print_answer(file, answer)
    finally:
        if as_json:
            show_json([as_record(file, answer) for file, answer in answered])
    if any(answer.error for _, answer in answered):
        raise typer.Exit(FAILED)


def images_of(files: Iterable[Path]) -> Iterator[Path]:
    """The files, and in place of a folder the images in it (not in folders below it)."""
    for file in files:
        if file.is_dir():
            inside = sorted(one for one in file.iterdir() if one.is_file() and not one.name.startswith("."))
            yield from (one for one in inside if one.suffix.lower() in SUFFIXES)
        else:
            yield file


class AnswerLines:
    """Prints each answer as one line when it comes; what is long is cut on a terminal, never in a pipe."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._console = to_stdout()
        self._common = ""
        if self._console.is_terminal and len(files) > 1:
            self._common = os.path.commonpath([file.parent for file in map(Path.absolute, files)])
        self._width = max(len("file"), *(len(self._name(file)) for file in files))
        self._has_heading = False

    def __call__(self, file: Path, answer: Classification) -> None:
        if not self._has_heading:
            self._print(Text(self._row("file", "label", "prob.", "version", "novelty", "runners-up"), "bold"))
            self._has_heading = True
        label = answer.label + (" (unknown)" if answer.unknown else "")
        others = ", ".join(f"{name} {probability:.3f}" for name, probability in answer.top[1:])
        probability, novelty = f"{answer.probability:.3f}", f"{answer.novelty:.2f}"
        row = Text(self._row(self._name(file), label, probability, str(answer.version), novelty, others))
        row.stylize("yellow" if answer.unknown else "bold", self._width + 2, self._width + 2 + len(label))
        self._print(row)

    def _row(self, *cells: str) -> str:
        file, label, probability, version, novelty, others = cells
        return (
            f"{file:<{self._width}}  {label:<{LABEL_COLUMNS}}  {probability:>5}  {version:>7}  "
            f"{novelty:>7}  {others}"
        ).rstrip()

    def _name(self, file: Path) -> str:
        if not self._console.is_terminal:
            return str(file)
        name = os.path.relpath(file.absolute(), self._common) if self._common else str(file)
        return shortened(name, max(FILE_COLUMNS, self._console.width - OTHER_COLUMNS))

    def _print(self, line: Text) -> None:
        if self._console.is_terminal:
            line.truncate(self._console.width, overflow="ellipsis")
        self._console.print(line, soft_wrap=True)


def shortened(name: str, columns: int) -> str:
    """`name` without its middle where it is longer; most of what stays is its end."""
    if len(name) <= columns:
        return name
    start = columns // 3
    return f"{name[:start]}…{name[len(name) - (columns - start - 1) :]}"


def as_record(file: Path, answer: Classification) -> dict[str, Any]:
    """One answer as JSON: `file` with the fields of a Classification, or with `error` alone."""
    if answer.error:
        return {"file": str(file), "error": answer.error}
    record = asdict(answer)
    del record["error"]
    record["top"] = [{"label": label, "probability": probability} for label, probability in answer.top]
    return {"file": str(file), **record}
