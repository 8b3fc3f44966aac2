"""Every error has a status, chosen by its branch; details fit into a header."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import grpc
import pytest

import tlserve.core
from tlserve.core import errors
from tlserve.core.errors import TlserveError
from tlserve.core.lifecycle import IllegalMove
from tlserve.rpc.status import DETAILS_BYTES, STATUS, details_of, status_of

for module in pkgutil.iter_modules(tlserve.core.__path__):
    importlib.import_module(f"tlserve.core.{module.name}")


def tree(root: type[TlserveError] = TlserveError) -> Iterator[type[TlserveError]]:
    for branch in root.__subclasses__():
        if not branch.__module__.startswith("tlserve.client"):  # what the other side makes of statuses
            yield branch
            yield from tree(branch)


def bare(kind: type[TlserveError]) -> TlserveError:
    """An instance without the arguments that its own constructor wants."""
    return kind.__new__(kind)


@pytest.mark.parametrize("kind", sorted(set(tree()), key=lambda kind: kind.__name__))
def test_every_error_of_the_tree_has_a_status(kind: type[TlserveError]) -> None:
    assert status_of(bare(kind)) is not grpc.StatusCode.UNKNOWN


@pytest.mark.parametrize("kind", sorted({*tree()} - {IllegalMove}, key=lambda kind: kind.__name__))
def test_no_error_raised_on_purpose_is_internal(kind: type[TlserveError]) -> None:
    assert status_of(bare(kind)) is not grpc.StatusCode.INTERNAL


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.BadImage, grpc.StatusCode.INVALID_ARGUMENT),
        (errors.BadInput, grpc.StatusCode.INVALID_ARGUMENT),
        (errors.UnknownModel, grpc.StatusCode.NOT_FOUND),
        (errors.UnknownVersion, grpc.StatusCode.NOT_FOUND),
        (errors.NotTrained, grpc.StatusCode.FAILED_PRECONDITION),
        (errors.Draining, grpc.StatusCode.UNAVAILABLE),
        (errors.NotLoaded, grpc.StatusCode.UNAVAILABLE),
        (errors.QueueFull, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.DeadlinePassed, grpc.StatusCode.DEADLINE_EXCEEDED),
    ],
)
def test_statuses_that_clients_rely_on(kind: type[TlserveError], status: grpc.StatusCode) -> None:
    assert status_of(bare(kind)) is status


@pytest.mark.parametrize("kind", sorted(set(tree()), key=lambda kind: kind.__name__))
def test_a_retryable_error_has_a_status_that_clients_retry(kind: type[TlserveError]) -> None:
    retried = {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
    assert (status_of(bare(kind)) in retried) == kind.retryable


def test_the_table_names_nothing_outside_the_tree() -> None:
    assert set(STATUS) <= set(tree())


def test_details_of_any_length_and_bytes_fit_into_a_header() -> None:
    names = tuple(f"model-{index}" for index in range(1000))
    assert len(details_of(errors.UnknownModel("x", names)).encode()) < DETAILS_BYTES + 10
    assert details_of(errors.BadInput("a\udcffb")) == "a?b"
    assert details_of(errors.BadInput("\N{SNOWMAN}" * 1000)).endswith("\N{SNOWMAN} ...")
