"""The server's own life: its port, its end, and calls that fail unexpectedly."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import grpc
import pytest
from grpc import aio

from tests.rpc.colours import MODEL, ColourBackend, picture
from tests.rpc.conftest import Running
from tlserve.client import AsyncClient
from tlserve.core.errors import OperatorError, Unavailable
from tlserve.rpc._gen import tlserve_v1_pb2 as v1
from tlserve.rpc.server import RpcServer


def a_server(folder: Path, address: str) -> RpcServer:
    return RpcServer(ColourBackend(folder), address=address)


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:0"])
async def test_port_zero_becomes_a_real_port(tmp_path: Path, address: str) -> None:
    server = a_server(tmp_path, address)
    bound = await server.start()
    assert bound.rpartition(":")[0] == address.rpartition(":")[0]
    assert int(bound.rpartition(":")[2]) > 0
    async with AsyncClient(bound) as client:
        await client.wait_ready(5)
    await server.stop(0)


async def test_a_unix_socket_will_do(tmp_path: Path) -> None:
    server = a_server(tmp_path, f"unix:{tmp_path}/s")
    async with AsyncClient(await server.start()) as client:
        await client.wait_ready(5)
    await server.stop(0)


async def test_a_second_server_on_one_port_is_refused_with_advice(running: Running, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=rf"cannot listen on {running.address}.*--grpc HOST:PORT"):
        await a_server(tmp_path, running.address).start()


@pytest.mark.parametrize(
    "address", ["256.0.0.1:8001", "no.such.host.invalid:1", "127.0.0.1:99999", "127.0.0.1:http", "127.0.0.1"]
)
async def test_an_impossible_address_is_the_operators_matter(tmp_path: Path, address: str) -> None:
    with pytest.raises(OperatorError, match="cannot listen on"):
        await a_server(tmp_path, address).start()


async def test_a_stopped_port_can_be_taken_again(tmp_path: Path) -> None:
    first = a_server(tmp_path, "127.0.0.1:0")
    bound = await first.start()
    await first.stop(0)
    second = a_server(tmp_path, bound)
    assert await second.start() == bound
    await second.stop(0)


async def test_calls_in_work_are_answered_before_the_end(running: Running) -> None:
    running.backend.gate.clear()
    async with AsyncClient(running.address) as client:
        call = asyncio.create_task(client.classify(MODEL, [picture("red")]))
        await running.backend.until(lambda backend: backend.working == 1)
        stopping = asyncio.create_task(running.server.stop(grace_seconds=30))
        async with AsyncClient(running.address) as late:
            with pytest.raises(Unavailable):
                await late.classify(MODEL, [picture("red")])
        running.backend.gate.set()
        assert (await call)[0].label == "red"
    async with asyncio.timeout(10):
        await stopping


async def test_calls_that_outlast_the_grace_are_cancelled(running: Running) -> None:
    running.backend.gate.clear()
    async with AsyncClient(running.address) as client:
        call = asyncio.create_task(client.classify(MODEL, [picture("red")]))
        await running.backend.until(lambda backend: backend.working == 1)
        await running.server.stop(grace_seconds=0.05)
        with pytest.raises(Exception, match=r"."):
            await call
    await running.backend.until(lambda backend: backend.cancelled == 1)


async def test_open_streams_do_not_hold_up_the_end(running: Running) -> None:
    async with AsyncClient(running.address) as client:
        watched = asyncio.create_task(anext(aiter(client.watch()), None))
        idle = asyncio.Event()

        async def images() -> object:
            yield picture("red")
            await idle.wait()

        answers = aiter(client.classify_stream(MODEL, images()))
        assert (await anext(answers)).label == "red"
        await running.backend.until(lambda backend: len(backend.watchers) == 1)
        async with asyncio.timeout(10):
            await running.server.stop(grace_seconds=60)
        assert await watched is None
        with pytest.raises(Unavailable, match="shutting down"):
            await anext(answers)
    assert running.backend.watchers == []


async def test_an_unexpected_failure_is_internal_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(ColourBackend):
        async def get_report(self, model: str, version: str) -> dict[str, object]:
            raise ZeroDivisionError("a secret path /home/x")

    server = RpcServer(Broken(tmp_path), address="127.0.0.1:0")
    async with aio.insecure_channel(await server.start()) as channel:
        call = channel.unary_unary(
            "/tlserve.v1.Tlserve/GetReport",
            request_serializer=v1.GetReportRequest.SerializeToString,
            response_deserializer=v1.GetReportResponse.FromString,
        )
        with caplog.at_level(logging.ERROR), pytest.raises(aio.AioRpcError) as caught:
            await call(v1.GetReportRequest(model=MODEL))
    await server.stop(0)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in (caught.value.details() or "")
    assert "ZeroDivisionError" in caplog.text
