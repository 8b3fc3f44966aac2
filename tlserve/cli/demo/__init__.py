"""`tlserve demo`: everything tlserve promises, seen on one's own machine in a minute, without any data."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from tlserve.cli.options import BackboneName
from tlserve.cli.terminal import to_stdout


def demo(
    once: Annotated[
        bool,
        typer.Option("--once", help="End after the show instead of serving until Ctrl-C; on free ports."),
    ] = False,
    backbone: BackboneName = None,
) -> None:
    """See it work: a real daemon learns handwritten digits, answers, and takes a new class under load.

    Needs no data and no network, and leaves nothing behind. Exit code 1 if a request failed on the way.
    """
    from tlserve.cli.demo.process import DaemonProcess, choose_addresses
    from tlserve.cli.demo.story import Story

    # A demo that is told to end (by `timeout`, by an editor) must still stop its daemon and tidy up.
    before = signal.signal(signal.SIGTERM, _end)
    try:
        with tempfile.TemporaryDirectory(prefix="tlserve-demo-") as folder:
            addresses = choose_addresses(prefer_defaults=not once)
            process = DaemonProcess(Path(folder), addresses, backbone or "nano")
            Story(to_stdout(), process, Path(folder)).run(once=once)
    except KeyboardInterrupt:
        typer.echo("Stopped; the demo's folder is gone.")
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
