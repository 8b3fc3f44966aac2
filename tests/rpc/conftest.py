"""A real gRPC server on a free port, over the colour backend."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.rpc.colours import ColourBackend
from tlserve.rpc.server import RpcServer


@dataclass
class Running:
    """A server that answers, and what stands behind it."""

    address: str
    backend: ColourBackend
    server: RpcServer
    calls: list[tuple[str, str, float]]


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    backend = ColourBackend(tmp_path / "watch")
    calls: list[tuple[str, str, float]] = []
    server = RpcServer(
        backend,
        address="127.0.0.1:0",
        max_message_bytes=1_000_000,
        observer=lambda *call: calls.append(call),
    )
    yield Running(await server.start(), backend, server, calls)
    backend.gate.set()
    await server.stop(grace_seconds=0)
