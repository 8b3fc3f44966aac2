"""`tlserve doctor`: is this machine fit for tlserve, and if not, what is to be done?

It works without a running daemon and changes nothing; only a plugin may download the weights of a wanted
backbone, as it would for the first pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from tlserve.cli.doctor.check import Check, Status, run
from tlserve.cli.failing import FAILED
from tlserve.cli.options import (
    ADDRESS_OPTION,
    AsJson,
    BackboneName,
    ConfigFile,
    StateFolder,
    WatchFolder,
    check_address,
)
from tlserve.cli.terminal import show, show_json

PROC = Path("/proc")
_STYLES = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "bold red"}


def doctor(
    *,
    watch: WatchFolder = None,
    state: StateFolder = None,
    backbone: BackboneName = None,
    config: ConfigFile = None,
    address: Annotated[str | None, ADDRESS_OPTION] = None,
    as_json: AsJson = False,
) -> None:
    """Check this machine: libraries, GPU, folders, limits, ports, a running daemon, backbones.

    A daemon is looked for at --address, else where the settings say that it listens. Exit code 1 if
    anything fails.
    """
    flags = {"watch": watch, "state": state, "backbone": backbone}
    found = []
    for check in all_checks(flags, config, address):
        found.append(check)
        if not as_json:
            show(check_line(check))
    if as_json:
        show_json(found)
    else:
        show(summary_line(found))
    if any(check.status is Status.FAIL for check in found):
        raise typer.Exit(FAILED)


def all_checks(flags: Mapping[str, object], config: Path | None, address: str | None) -> Iterator[Check]:
    """Every finding, the quick ones first. address: of a running daemon; None: as the settings say."""
    from tlserve.cli.doctor import backbones, daemon, folders, machine
    from tlserve.settings import load_settings

    if address is not None:
        check_address(address)
    settings = load_settings(flags, config)
    mountinfo = PROC / "self/mountinfo"
    yield from run("versions", machine.check_versions)
    yield from run("image formats", machine.check_image_formats)
    yield from run("inotify", lambda: machine.check_inotify(PROC, settings.watch))
    yield from run("state folder", lambda: folders.check_state(settings, mountinfo))
    daemon_checks = list(run("daemon", lambda: daemon.check_daemon(address or settings.grpc, settings)))
    answers = any(check.name == "daemon" and check.status is Status.OK for check in daemon_checks)
    needed = not answers or settings.watch != type(settings).model_fields["watch"].default
    yield from run("watch folder", lambda: folders.check_watch(settings, mountinfo, needed=needed))
    yield from run("device", lambda: machine.check_accelerator(settings))
    yield from daemon_checks
    yield from run("backbones", lambda: backbones.check_backbones(settings))


def check_line(check: Check) -> Text:
    """`warn  inotify: 12 of 128 instances free` and, below it, what to do."""
    line = Text.assemble(
        (f"{check.status.value:<4}", _STYLES[check.status]), "  ", (check.name, "bold"), ": ", check.found
    )
    if check.advice:
        line.append(f"\n      -> {check.advice}", style="dim" if check.status is Status.OK else "")
    return line


def summary_line(found: list[Check]) -> Text:
    n_fail = sum(check.status is Status.FAIL for check in found)
    n_warn = sum(check.status is Status.WARN for check in found)
    if n_fail:
        return Text(f"\n{n_fail} to mend first, {n_warn} to know about.", style="bold red")
    if n_warn:
        return Text(f"\nReady to serve; {n_warn} to know about.", style="yellow")
    return Text("\nAll is well.", style="green")
