"""A real gRPC server for the client commands, and a way to run commands as a person would."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.rpc.colours import ColourBackend
from tlserve.cli import app
from tlserve.rpc.server import RpcServer

GIVE_UP_SECONDS = 20.0


@dataclass
class Colours:
    """A server on a thread of its own, and the small backend behind it."""

    address: str
    backend: ColourBackend
    loop: asyncio.AbstractEventLoop


@pytest.fixture
def colours(tmp_path: Path) -> Iterator[Colours]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> tuple[ColourBackend, RpcServer, str]:
        backend = ColourBackend(tmp_path / "watch")
        server = RpcServer(backend, address="127.0.0.1:0", max_message_bytes=1_000_000)
        return backend, server, await server.start()

    backend, server, address = asyncio.run_coroutine_threadsafe(start(), loop).result(GIVE_UP_SECONDS)
    yield Colours(address, backend, loop)
    asyncio.run_coroutine_threadsafe(server.stop(grace_seconds=0), loop).result(GIVE_UP_SECONDS)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def run(*arguments: str | Path, env: dict[str, str] | None = None) -> Result:
    """One command in this process; its exit code, stdout and stderr."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=env)
