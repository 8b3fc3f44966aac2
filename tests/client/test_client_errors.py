"""Errors come back as the branches that the server raised, with their text."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.client.test_client import Ask, ask, names_in
from tests.rpc.colours import EMPTY, MODEL, picture
from tests.rpc.conftest import Running
from tlserve.client import AsyncClient, Client, NobodyListens, ServerProblem
from tlserve.client.errors import translated
from tlserve.core import errors
from tlserve.rpc.status import STATUS, status_of

__all__ = ["ask"]

GREETING_SECONDS = 0.7
"""What the way to a slow server takes, once each way."""

FAILING: list[tuple[tuple[Any, ...], type[errors.TlserveError], str]] = [
    (
        ("classify", "nobody", [picture("red")]),
        errors.NotFound,
        r"unknown model 'nobody'; models here: colours",
    ),
    (("classify", "../x", [picture("red")]), errors.NotFound, r"unknown model '\.\./x'"),
    (("classify", EMPTY, [picture("red")]), errors.NotReady, "not trained yet"),
    (("classify", MODEL, [b"no image"]), errors.InvalidRequest, "not an image"),
    (("classify", MODEL, []), errors.InvalidRequest, "no image"),
    (("classify", MODEL, [b"x" * 1_200_000]), errors.InvalidRequest, "send fewer images"),
    (("model", "nobody"), errors.NotFound, "nobody"),
    (("report", MODEL, "77"), errors.NotFound, "no version '77'"),
    (("promote", MODEL, ""), errors.InvalidRequest, "number of a version"),
    (("promote", MODEL, "newest"), errors.NotFound, "no version 'newest'"),
    (("set_promotion", MODEL, "sometimes"), errors.InvalidRequest, "auto, manual, frozen"),
    (("watch", "nobody"), errors.NotFound, "nobody"),
    (("classify_stream", "nobody", [picture("red")]), errors.NotFound, "nobody"),
]


@pytest.mark.parametrize(("call", "branch", "says"), FAILING)
async def test_a_refusal_comes_back_as_its_branch(
    ask: Ask, call: tuple[Any, ...], branch: type[errors.TlserveError], says: str
) -> None:
    with pytest.raises(branch, match=says):
        await ask(*call)


async def test_a_full_queue_and_a_drain_are_told_apart(running: Running, ask: Ask) -> None:
    running.backend.queue_rows = 0
    with pytest.raises(errors.QueueFull, match="queue is full"):
        await ask("classify", MODEL, [picture("red")])
    running.backend.draining = True
    with pytest.raises(errors.Unavailable, match="shutting down") as caught:
        await ask("classify", MODEL, [picture("red")])
    assert not isinstance(caught.value, NobodyListens)


@pytest.mark.parametrize("name", ["../a.png", "a/b.png", ".hidden.png", "_inbox", ""])
async def test_labels_that_lead_elsewhere_are_refused(running: Running, ask: Ask, name: str) -> None:
    file = running.backend.watch_root.parent / "a.png"
    file.write_bytes(picture("red"))
    with pytest.raises(errors.InvalidRequest, match="the label"):
        await ask("add_images", MODEL, name, [file])
    with pytest.raises(errors.InvalidRequest, match="cannot be a model"):
        await ask("add_images", "../" + name, "red", [file])
    assert not running.backend.watch_root.exists()


@pytest.mark.parametrize("method", ["classify", "classify_stream"])
async def test_files_that_cannot_be_read_are_named(ask: Ask, tmp_path: Path, method: str) -> None:
    with pytest.raises(errors.BadInput, match=r"no such file: .*gone\.png"):
        await ask(method, MODEL, [picture("red"), tmp_path / "gone.png"])
    with pytest.raises(errors.BadInput, match="is a folder"):
        await ask(method, MODEL, [tmp_path])


async def test_no_file_is_added_when_one_is_missing(running: Running, ask: Ask, tmp_path: Path) -> None:
    there = tmp_path / "a.png"
    there.write_bytes(picture("red"))
    with pytest.raises(errors.BadInput, match="no such file"):
        await ask("add_images", MODEL, "red", [there, tmp_path / "b.png"])
    assert not running.backend.watch_root.exists()


async def test_a_failed_export_leaves_the_old_file(ask: Ask, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"old")
    with pytest.raises(errors.NotFound):
        await ask("export", MODEL, "9", file)
    assert names_in(tmp_path) == ["model.onnx"]
    assert file.read_bytes() == b"old"
    with pytest.raises(errors.BadInput, match="cannot write"):
        await ask("export", MODEL, "2", tmp_path / "no" / "folder")


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def test_nobody_listening_says_how_to_start() -> None:
    address = free_address()
    with Client(address) as client:
        with pytest.raises(NobodyListens, match=f"no tlserve at {address}; start it with: tlserve serve"):
            client.models()
        assert not client.ready()
        with pytest.raises(errors.Unavailable, match=r"was not ready within 0\.3 seconds"):
            client.wait_ready(0.3)


async def test_nobody_listening_says_how_to_start_in_asyncio_too() -> None:
    async with AsyncClient(free_address()) as client:
        with pytest.raises(errors.Unavailable, match="start it with: tlserve serve"):
            await client.models()
        with pytest.raises(errors.Unavailable, match="start it with: tlserve serve"):
            await anext(aiter(client.watch()))


async def test_a_slow_answer_is_a_passed_deadline(running: Running) -> None:
    running.backend.gate.clear()
    async with AsyncClient(running.address, timeout_seconds=0.1) as client:
        with pytest.raises(errors.DeadlinePassed):
            await client.classify(MODEL, [picture("red")])


@pytest.mark.parametrize(
    "branch", [branch for branch in STATUS if STATUS[branch] is not grpc.StatusCode.INTERNAL]
)
def test_every_status_that_the_server_sends_has_a_branch_here(branch: type[errors.TlserveError]) -> None:
    status = status_of(branch.__new__(branch))
    back = translated(status, "the text", "127.0.0.1:8001")
    assert "the text" in str(back)
    assert not isinstance(back, ServerProblem)
    assert back.retryable == branch.retryable


async def test_a_server_that_is_slow_to_greet_is_waited_for(running: Running) -> None:
    """As one far away, or on a busy machine."""
    host, _, port = running.address.rpartition(":")

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(GREETING_SECONDS)
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_server = await asyncio.open_connection(host, int(port))
        await asyncio.gather(carry(reader, to_server[1]), carry(to_server[0], writer))

    async with await asyncio.start_server(between, "127.0.0.1") as slow:
        address = f"127.0.0.1:{slow.sockets[0].getsockname()[1]}"
        async with AsyncClient(address) as client:
            assert (await client.model(MODEL)).model == MODEL
