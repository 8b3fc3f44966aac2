"""The one place where errors become gRPC statuses: by branch of the tree, never by leaf.

A test walks the whole tree of `core.errors`, so a new branch without a line here is noticed.
"""

from __future__ import annotations

import grpc

from tlserve.core import errors
from tlserve.core.lifecycle import IllegalMove

DETAILS_BYTES = 2000
"""Details travel as a header, percent-encoded, and clients refuse headers above 8 KiB."""

STATUS: dict[type[errors.TlserveError], grpc.StatusCode] = {
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.NotReady: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.QueueFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlinePassed: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.DatasetError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.OperatorError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.StoreUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.CorruptState: grpc.StatusCode.DATA_LOSS,
    errors.TrainerFailed: grpc.StatusCode.UNAVAILABLE,
    # Only a fault of ours can ask for a move that the table forbids.
    IllegalMove: grpc.StatusCode.INTERNAL,
}


def status_of(error: errors.TlserveError) -> grpc.StatusCode:
    """The status of the nearest branch above `error`; UNKNOWN where the tree outgrew the table."""
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return grpc.StatusCode.UNKNOWN


def details_of(error: errors.TlserveError) -> str:
    """The error's text, short enough for a header and free of what UTF-8 cannot say."""
    raw = str(error).encode("utf-8", "replace")
    if len(raw) <= DETAILS_BYTES:
        return raw.decode("utf-8")
    return raw[:DETAILS_BYTES].decode("utf-8", "ignore") + " ..."
