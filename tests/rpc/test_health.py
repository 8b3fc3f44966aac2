"""grpc.health.v1 and reflection, as probes and tools use them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from tests.rpc.colours import EMPTY, MODEL
from tests.rpc.conftest import Running

SERVICES = ("inference.GRPCInferenceService", "tlserve.v1.Tlserve", "grpc.health.v1.Health")
Status = health_pb2.HealthCheckResponse


@pytest.fixture
async def channel(running: Running) -> AsyncIterator[aio.Channel]:
    async with aio.insecure_channel(running.address) as opened:
        yield opened


@pytest.fixture
def health(channel: aio.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel)


async def status(health: Any, name: str) -> int:
    answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
    return int(answer.status)


async def test_the_server_its_services_and_its_models_have_a_health(health: Any) -> None:
    for name in ("", *SERVICES, MODEL):
        assert await status(health, name) == Status.SERVING
    assert await status(health, EMPTY) == Status.NOT_SERVING


@pytest.mark.parametrize("name", ["nobody", "../x", "a" * 500])
async def test_an_unknown_name_is_not_found(health: Any, name: str) -> None:
    with pytest.raises(aio.AioRpcError, match="neither a service nor a model") as caught:
        await status(health, name)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_draining_is_seen_while_calls_are_still_answered(running: Running, health: Any) -> None:
    running.server.begin_drain()
    for name in ("", *SERVICES, MODEL):
        assert await status(health, name) == Status.NOT_SERVING


async def test_a_watch_tells_of_changes_and_ends_with_the_server(running: Running, health: Any) -> None:
    watch = aiter(health.Watch(health_pb2.HealthCheckRequest(service=MODEL)))
    assert (await anext(watch)).status == Status.SERVING
    running.backend.live = 9
    assert (await anext(watch)).status == Status.NOT_SERVING
    running.backend.live = 2
    assert (await anext(watch)).status == Status.SERVING
    stopping = asyncio.create_task(running.server.stop(grace_seconds=30))
    assert (await anext(watch)).status == Status.NOT_SERVING
    with pytest.raises(StopAsyncIteration):
        await anext(watch)
    async with asyncio.timeout(10):
        await stopping


async def test_a_watch_of_an_unknown_name_stays_open(health: Any) -> None:
    watch = aiter(health.Watch(health_pb2.HealthCheckRequest(service="nobody")))
    assert (await anext(watch)).status == Status.SERVICE_UNKNOWN


@pytest.mark.parametrize("package", ["grpc.reflection.v1alpha", "grpc.reflection.v1"])
async def test_reflection_describes_all_services(channel: aio.Channel, package: str) -> None:
    reflect = channel.stream_stream(
        f"/{package}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )

    async def requests() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        for name in SERVICES:
            yield reflection_pb2.ServerReflectionRequest(file_containing_symbol=name)

    listed, *files = [answer async for answer in reflect(requests())]
    assert set(SERVICES) <= {service.name for service in listed.list_services_response.service}
    found = [
        descriptor_pb2.FileDescriptorProto.FromString(raw)
        for answer in files
        for raw in answer.file_descriptor_response.file_descriptor_proto
    ]
    described = {f"{file.package}.{service.name}" for file in found for service in file.service}
    assert set(SERVICES) <= described
