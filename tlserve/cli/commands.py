"""All commands under one name; the order here is the order in `tlserve --help`."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from tlserve import __version__
from tlserve.cli.backbones import backbones
from tlserve.cli.bench import bench
from tlserve.cli.classifying import classify
from tlserve.cli.comparing import compare
from tlserve.cli.daemon import serve
from tlserve.cli.decisions import adopt, export, pin, promote, promotion, retrain, rollback
from tlserve.cli.demo import demo
from tlserve.cli.doctor import doctor
from tlserve.cli.failing import ErrorsAsOneLine
from tlserve.cli.following import watch
from tlserve.cli.listings import models, report, versions
from tlserve.cli.scaffold import new_backbone
from tlserve.cli.terminal import show
from tlserve.cli.training import train
from tlserve.cli.viewing import views

RUN, ASK, DECIDE, CARE = "Run", "Ask a running daemon", "Decide", "Look after it"
EXTEND = "Extend it"

app = typer.Typer(
    cls=ErrorsAsOneLine,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        show(f"tlserve {__version__}")
        raise typer.Exit


@app.callback()
def tlserve(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print tlserve's version."),
    ] = False,
) -> None:
    """Image classification by transfer learning: drop labelled images into folders, and seconds later a
    better model answers over gRPC.

    New here? Run `tlserve demo`, then `tlserve serve --watch DIR --state DIR` with a folder of your own.
    """


for panel, commands in {
    RUN: (serve, train, views, demo),
    ASK: (classify, models, versions, report, compare, watch, bench),
    DECIDE: (retrain, promote, rollback, pin, promotion, adopt, export),
    CARE: (doctor,),
    EXTEND: (new_backbone,),
}.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(backbones, name="backbones", rich_help_panel=ASK)


def main() -> None:
    """The entry point of the `tlserve` command."""
    # What gRPC's core writes to stderr by itself (an address in use) comes as an error of ours as well.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    app(prog_name="tlserve")
