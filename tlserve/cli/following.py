"""`tlserve watch`: what a running daemon does, as it happens."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from tlserve.cli import wording
from tlserve.cli.options import DEFAULT_ADDRESS, Address, connect
from tlserve.cli.terminal import say, to_stdout

if TYPE_CHECKING:
    from tlserve.rpc.backend import ModelEvent

_KIND_STYLES = {"swap": "bold green", "version": "green", "problem": "yellow"}


def watch(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Only this model.")] = "",
    address: Address = DEFAULT_ADDRESS,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Follow what the daemon does, until Ctrl-C: changes noticed, progress, new versions."""
    console = to_stdout()
    with connect(address, timeout_seconds=None) as client:
        say(f"following {address}, Ctrl-C ends")
        try:
            for event in client.watch(model):
                if as_json:
                    print(json.dumps(asdict(event), ensure_ascii=False), flush=True)
                else:
                    console.print(event_line(event), soft_wrap=True)
        except KeyboardInterrupt:
            return
    say("the daemon has stopped")


def event_line(event: ModelEvent) -> Text:
    """`12:03:11 flowers  passing images through the backbone, 120 of 2934, 210 images/s, 13 s left`."""
    what = event.message or event.phase or event.kind
    at = wording.clock_time(event.at)
    return Text.assemble(
        (at, "dim"), " ", (event.model, "bold"), "  ", (what, _KIND_STYLES.get(event.kind, ""))
    )
