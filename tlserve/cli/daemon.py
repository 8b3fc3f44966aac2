"""`tlserve serve`: the daemon in the foreground, and what it says when it is up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from tlserve.cli.options import (
    Augment,
    BackboneName,
    ConfigFile,
    HeadName,
    PrecisionName,
    StateFolder,
    StrategyName,
    Unfreeze,
    Views,
    WatchFolder,
    learning_flags,
)
from tlserve.cli.terminal import say

if TYPE_CHECKING:
    from tlserve.app import Started
    from tlserve.settings import Settings


def serve(
    *,
    watch: WatchFolder = None,
    state: StateFolder = None,
    backbone: BackboneName = None,
    precision: PrecisionName = None,
    grpc: Annotated[
        str | None, typer.Option("--grpc", metavar="HOST:PORT", help="Where gRPC listens. [127.0.0.1:8001]")
    ] = None,
    http: Annotated[
        str | None, typer.Option("--http", metavar="HOST:PORT", help="Health over HTTP. [127.0.0.1:8000]")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option("--metrics", metavar="HOST:PORT", help="Prometheus. [127.0.0.1:8002]")
    ] = None,
    head: HeadName = None,
    strategy: StrategyName = None,
    augment: Augment = None,
    views: Views = None,
    unfreeze: Unfreeze = None,
    config: ConfigFile = None,
) -> None:
    """Run the daemon: watch the folders, train in the background, answer over gRPC. Ctrl-C stops it cleanly.

    Flags win over TLSERVE_* variables, and these over tlserve.toml; docs/configuration.md lists all settings.
    """
    from tlserve.app import serve as run_daemon
    from tlserve.settings import load_settings

    addresses = {"grpc": grpc, "http": http, "metrics": metrics}
    how = learning_flags(head=head, strategy=strategy, augment=augment, views=views, unfreeze=unfreeze)
    flags = {"watch": watch, "state": state, "backbone": backbone, "precision": precision, **addresses, **how}
    settings = load_settings(flags, config)
    raise typer.Exit(run_daemon(settings, on_started=lambda started: say(banner(settings, started))))


def banner(settings: Settings, started: Started) -> Text:
    """What a person wants to know at the start: where it listens, what it watches, what runs where."""
    lines = {
        "gRPC": started.grpc_address,
        "HTTP": started.http_address or "off",
        "metrics": started.metrics_address or "off",
        "watching": str(settings.watch.absolute()),
        "state": str(settings.state.absolute()),
        "backbone": settings.backbone,
        "device": started.device,
        "models": ", ".join(started.models) or "none answers yet; the folders are looked at now",
    }
    text = Text("tlserve is up", style="bold green")
    for name, value in lines.items():
        text.append(f"\n  {name:<9}", style="not bold dim default").append(value, style="not bold default")
    return text
