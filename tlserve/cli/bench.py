"""`tlserve bench`: how fast a server answers, from here, under a load that one can choose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tlserve.cli.bench_report import as_record, in_words, say_warnings, show_results
from tlserve.cli.classifying import SUFFIXES
from tlserve.cli.failing import FAILED
from tlserve.cli.options import DEFAULT_ADDRESS, Address, AsJson, check_address
from tlserve.cli.terminal import say, show_json

if TYPE_CHECKING:
    from tlserve.client.load import LoadResult, LoadSettings, Requests

DEFAULT_CLIENTS = 8


def bench(
    models: Annotated[
        str, typer.Argument(metavar="MODEL[,MODEL...]", help="The model to ask, or several that take turns.")
    ],
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE",
            exists=True,
            readable=True,
            help="Images to send, or folders of them; else made up.",
        ),
    ] = None,
    *,
    address: Address = DEFAULT_ADDRESS,
    clients: Annotated[
        int | None,
        typer.Option("--clients", metavar="N", min=1, help="How many ask at once.", show_default="8"),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option("--sweep", metavar="N,N,...", help="Several numbers of clients, one after the other."),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option("--rate", metavar="R", help="Send R requests/s whatever the answers do (open loop)."),
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", metavar="S", help="How long to measure.")] = 10.0,
    warm_up: Annotated[
        float, typer.Option("--warm-up", metavar="S", help="Seconds of load before that, not counted.")
    ] = 2.0,
    batch: Annotated[int, typer.Option("--batch", metavar="N", min=1, help="Images in each request.")] = 1,
    input_name: Annotated[
        str,
        typer.Option("--input", metavar="NAME", help="`image` (files), `pixels`, or an input of the model."),
    ] = "",
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="HxW", help="Of pixels; else the model's own, or 224x224."),
    ] = None,
    version: Annotated[
        str,
        typer.Option("--version", metavar="VERSION", help="A number, `live` (if not given) or `previous`."),
    ] = "",
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="S", help="Seconds after which a request has failed.")
    ] = 30.0,
    processes: Annotated[
        int, typer.Option("--processes", metavar="N", min=1, help="Processes that share the asking.")
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Measure how fast a server answers: throughput, latency percentiles and errors.

    Any server of the Open Inference Protocol v2 can be asked. Exit code 1 when a request failed.
    Ctrl-C ends it early and shows what was measured. How to read it: docs/measuring.md.
    """
    check_address(address)
    counts = _client_counts(clients, sweep, rate)
    from tlserve.client.load import LoadSettings, Question, prepare

    question = Question(
        models=tuple(name.strip() for name in models.split(",")),
        files=tuple(_images(files or [])),
        version=version,
        batch=batch,
        input_name=input_name,
        size=_size(size),
    )
    settings = LoadSettings(
        address, max(counts), rate, seconds, warm_up, timeout_seconds=timeout, processes=processes
    )
    plans = [replace(settings, clients=count) for count in counts]  # wrong ones fail before the first is run
    requests = prepare(address, question)
    say(f"{models} at {address}, {requests.description}")
    results = _measured(plans, requests)
    if as_json:
        show_json(as_record(requests, results))
    else:
        show_results(results)
    say_warnings(results)
    if any(result.errors for result in results):
        raise typer.Exit(FAILED)


def _client_counts(clients: int | None, sweep: str | None, rate: float | None) -> list[int]:
    if sum(choice is not None for choice in (clients, sweep, rate)) > 1:
        raise typer.BadParameter("give one of --clients, --sweep and --rate")
    if sweep is None:
        return [clients or DEFAULT_CLIENTS]
    counts = [int(count) if count.strip().isdecimal() else 0 for count in sweep.split(",")]
    if min(counts) < 1:
        raise typer.BadParameter(f"give numbers of clients like 1,8,32 (got {sweep!r})", param_hint="--sweep")
    return counts


def _images(files: Sequence[Path]) -> list[Path]:
    """The files, and in place of a folder all images below it: a folder of class folders is welcome."""
    found: list[Path] = []
    for file in files:
        inside = sorted(file.rglob("*")) if file.is_dir() else []
        found += [one for one in inside if one.is_file() and one.suffix.lower() in SUFFIXES]
        found += [] if file.is_dir() else [file]
    if files and not found:
        raise typer.BadParameter("no image files in that folder", param_hint="FILE")
    return found


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise typer.BadParameter(f"give height and width like 224x224 (got {text!r})", param_hint="--size")
    return int(height), int(width)


def _measured(plans: Sequence[LoadSettings], requests: Requests) -> list[LoadResult]:
    """One result for each plan, up to the one that a Ctrl-C ended."""
    from tlserve.client.load import measure

    results: list[LoadResult] = []
    for plan in plans:
        warm_up = f"{plan.warm_up_seconds:g} s to warm up, then " if plan.warm_up_seconds else ""
        say(f"{in_words(plan)}: {warm_up}{plan.seconds:g} s; Ctrl-C ends it ...")
        results.append(measure(plan, requests))
        if results[-1].interrupted:
            break
    return results
