"""Checks of a running daemon: does it answer, what do its models do? Without one: could it listen?"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tlserve.cli.doctor.check import Check, fail, ok, warn
from tlserve.core.errors import TlserveError
from tlserve.settings import Settings

if TYPE_CHECKING:
    from tlserve.rpc.backend import ModelSummary

ANSWER_SECONDS = 3.0
PROBLEMS_SHOWN = 5


def check_daemon(address: str, settings: Settings) -> Iterator[Check]:
    """No daemon is no failure; another program on one of its ports is."""
    from tlserve.client import Client

    if not is_open(address):
        yield warn("daemon", f"none at {address}", "start one with: tlserve serve --watch DIR --state DIR")
        yield from check_ports(settings)
        return
    try:
        with Client(address, timeout_seconds=ANSWER_SECONDS) as client:
            ready = client.ready()
            models = client.models()
    except TlserveError as exc:
        yield fail(
            "daemon", f"{address} is taken, but no tlserve answers: {exc}", "stop that program, or set --grpc"
        )
        return
    if ready:
        yield ok("daemon", f"ready at {address}, {len(models)} model(s)")
    else:
        yield warn(
            "daemon", f"answers at {address}, but is not ready", "it is starting or stopping; ask again soon"
        )
    for model in models:
        yield from check_model(model)


def check_model(model: ModelSummary) -> Iterator[Check]:
    """The state of one served model and what stands in its folder."""
    name = f"served model {model.model}"
    if model.phase == "failed":
        yield fail(name, model.message, "the last version keeps serving; see the daemon's log")
    elif model.phase == "waiting":
        live = f"version {model.live} is live; " if model.ready else ""
        yield warn(name, f"{live}it waits", model.message)
    elif not model.ready:
        yield warn(name, f"{model.phase}: {model.message}", "it answers once its first version is live")
    else:
        yield ok(name, f"version {model.live} is live; {model.message or model.phase}")
    if model.n_problems:
        shown = "; ".join(f"{where}: {why}" for _, where, why in model.problems[:PROBLEMS_SHOWN])
        yield warn(
            f"images of {model.model}",
            f"{model.n_problems} problem(s): {shown}",
            "see: tlserve models --json",
        )


def check_ports(settings: Settings) -> Iterator[Check]:
    """Whether a daemon with these settings could listen on each of its addresses."""
    for name in ("grpc", "http", "metrics"):
        address: str = getattr(settings, name)
        if not address:
            continue
        if problem := why_not_bound(address):
            yield fail(
                f"{name} port",
                f"{address}: {problem}",
                f"stop what has it, or choose another with --{name} HOST:PORT; if that is a tlserve, name "
                "its gRPC address with --address",
            )
        else:
            yield ok(f"{name} port", f"{address} is free")


def why_not_bound(address: str) -> str:
    """What keeps a server from listening there; empty when nothing does. Listens for a moment to know."""
    host, _, port = address.rpartition(":")
    try:
        family, *_, place = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As servers do: connections of an earlier one that have yet to expire are not in the way.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            probe.listen()
            return ""
    except OSError as exc:
        return exc.strerror or str(exc)


def is_open(address: str) -> bool:
    """Whether anything accepts a connection there."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS):
            return True
    except (OSError, ValueError):
        return False
