"""gRPC statuses back to the branches of tlserve.core.errors, message kept: the reverse of rpc.status."""

from __future__ import annotations

import grpc

from tlserve.core.errors import (
    CorruptState,
    DeadlinePassed,
    InvalidRequest,
    NotFound,
    NotReady,
    QueueFull,
    TlserveError,
    Unavailable,
)

_NOBODY_LISTENS = ("failed to connect to all addresses", "DNS resolution failed", "Name resolution failure")
_TOO_LARGE = "message larger than max"


class NobodyListens(Unavailable):
    """There is no server at the address; other kinds of Unavailable are a server's own word."""

    def __init__(self, address: str) -> None:
        super().__init__(f"no tlserve at {address}; start it with: tlserve serve --watch DIR --state DIR")
        self.address = address


class ServerBusy(QueueFull):
    """The server refused because its queue is full; the text has its numbers."""

    def __init__(self, text: str) -> None:
        TlserveError.__init__(self, text)
        self.waiting_rows = self.limit_rows = 0


class ServerProblem(TlserveError):
    """The server failed in a way that the caller cannot mend; its log says more."""

    def __init__(self, text: str, status: str) -> None:
        super().__init__(f"{text} ({status})" if text else status)
        self.status = status


_BRANCHES: dict[grpc.StatusCode, type[TlserveError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: NotReady,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ServerBusy,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlinePassed,
    grpc.StatusCode.DATA_LOSS: CorruptState,
}


def translated(status: grpc.StatusCode, details: str, address: str) -> TlserveError:
    """The error that a failed call to `address` means."""
    if status is grpc.StatusCode.UNAVAILABLE and details.startswith(_NOBODY_LISTENS):
        return NobodyListens(address)
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in details:
        return InvalidRequest(f"{details}; send fewer images in one request")
    if status is grpc.StatusCode.DEADLINE_EXCEEDED and details in ("", "Deadline Exceeded"):
        return DeadlinePassed(f"no answer from {address} within the time limit")
    if status is grpc.StatusCode.CANCELLED:
        # We never cancel: a server that ends says this to a call that came at the last moment.
        return Unavailable(f"the server at {address} stopped before it answered; try again")
    branch = _BRANCHES.get(status)
    return ServerProblem(details, status.name) if branch is None else branch(details)


def not_ready(address: str, model: str, timeout_seconds: float) -> Unavailable:
    """What `wait_ready` raises when it gives up."""
    who = f"model {model!r} at {address}" if model else f"tlserve at {address}"
    return Unavailable(f"{who} was not ready within {timeout_seconds:g} seconds")
