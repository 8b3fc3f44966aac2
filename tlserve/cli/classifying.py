"""`tlserve classify`: ask a model what is on some images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from tlserve.cli.failing import FAILED, complain
from tlserve.cli.options import DEFAULT_ADDRESS, Address, AsJson, ModelName, connect
from tlserve.cli.terminal import Cell, show, show_json, table

if TYPE_CHECKING:
    from tlserve.client import Classification


def classify(
    model: ModelName,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", exists=True, dir_okay=False, readable=True, help="Image files."),
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
    """
    with connect(address, timeout_seconds=None) as client:
        answers = list(client.classify_stream(model, files, version=version, top_k=top_k))
    pairs = list(zip(files, answers, strict=True))
    good = [(file, answer) for file, answer in pairs if not answer.error]
    if as_json:
        show_json([as_record(file, answer) for file, answer in pairs])
    elif good:
        show(answers_table(good))
    for file, answer in pairs:
        if answer.error:
            complain(f"{file}: {answer.error}")
    if len(good) < len(pairs):
        raise typer.Exit(FAILED)


def answers_table(answers: Iterable[tuple[Path, Classification]]) -> Table:
    headings = ("file", "label", "probability", "runners-up", "novelty", "version")
    rows = (_row(file, answer) for file, answer in answers)
    return table(headings, rows, right=("probability", "novelty", "version"))


def _row(file: Path, answer: Classification) -> tuple[Cell, ...]:
    label = Text(answer.label, style="bold")
    if answer.unknown:
        label = Text.assemble((answer.label, "dim"), (" (unknown)", "yellow"))
    others = ", ".join(f"{name} {probability:.3f}" for name, probability in answer.top[1:])
    numbers = f"{answer.probability:.3f}", others, f"{answer.novelty:.2f}", str(answer.version)
    return (str(file), label, *numbers)


def as_record(file: Path, answer: Classification) -> dict[str, Any]:
    """One answer as JSON: `file` with the fields of a Classification, or with `error` alone."""
    if answer.error:
        return {"file": str(file), "error": answer.error}
    record = asdict(answer)
    del record["error"]
    record["top"] = [{"label": label, "probability": probability} for label, probability in answer.top]
    return {"file": str(file), **record}
