"""`RpcServer`: the gRPC server of the daemon, from its port to its last call."""

from __future__ import annotations

import asyncio
import time
from contextlib import nullcontext
from typing import Any

import grpc
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc import aio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from tlserve.core.errors import OperatorError
from tlserve.rpc._gen import inference_pb2, model_config_pb2, tlserve_v1_pb2
from tlserve.rpc.backend import Backend
from tlserve.rpc.handlers import CallObserver, service_handlers
from tlserve.rpc.health import HealthServicer
from tlserve.rpc.oip import InferenceServicer
from tlserve.rpc.streams import Shutdown
from tlserve.rpc.v1 import TlserveServicer

DEFAULT_MAX_MESSAGE_BYTES = 64 * 1024 * 1024
LAST_WORDS_SECONDS = 0.2
"""For answers that are on their way out when the last call ends."""
_FILES = (
    model_config_pb2.DESCRIPTOR,
    inference_pb2.DESCRIPTOR,
    tlserve_v1_pb2.DESCRIPTOR,
    health_pb2.DESCRIPTOR,
)
_REFLECTION = ("grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection")


class RpcServer:
    """All our gRPC services on one port.

    address: "host:port" (port 0: any free one) or "unix:/path".
    max_message_bytes: longer requests are refused with RESOURCE_EXHAUSTED.
    observer: told of every finished call, for metrics.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        address: str,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        observer: CallObserver | None = None,
    ) -> None:
        self._backend = backend
        self._address = address
        self._max_message_bytes = max_message_bytes
        self._observer = observer
        self._shutdown = Shutdown()
        self._server: aio.Server | None = None

    async def start(self) -> str:
        """Listen and answer; returns the address with its real port. Raises OperatorError if it is taken."""
        server = aio.server(
            handlers=self._handlers(),
            options=[
                ("grpc.so_reuseport", 0),  # a second daemon on this port must fail, not share it
                ("grpc.max_receive_message_length", self._max_message_bytes),
                ("grpc.max_send_message_length", -1),
            ],
        )
        try:
            port = server.add_insecure_port(_checked(self._address))
        except (RuntimeError, ValueError) as exc:
            raise OperatorError(
                f"cannot listen on {self._address} for gRPC: another process has the port, or the address is "
                "not this machine's; choose another one with --grpc HOST:PORT"
            ) from exc
        await server.start()
        self._server = server
        return self._address if self._address.startswith("unix:") else _with_port(self._address, port)

    def begin_drain(self) -> None:
        """Say NOT_SERVING and take no more requests on open streams; single calls are still answered."""
        self._shutdown.draining.set()

    async def stop(self, grace_seconds: float) -> None:
        """Drain, refuse new calls, give those in work `grace_seconds`, cancel the rest. Twice is harmless."""
        self.begin_drain()
        self._shutdown.closing.set()
        if self._server is not None:
            server, self._server = self._server, None
            started = time.monotonic()
            # Until the last call in work is answered, late ones hear UNAVAILABLE from us.
            await self._shutdown.calls_done(grace_seconds)
            # Clients that ask in a loop hear it too, rather than gRPC's own CANCELLED.
            await asyncio.sleep(min(LAST_WORDS_SECONDS, grace_seconds))
            await server.stop(max(LAST_WORDS_SECONDS, grace_seconds - (time.monotonic() - started)))

    def _handlers(self) -> list[grpc.GenericRpcHandler[Any, Any]]:
        services = {
            descriptor.full_name: descriptor
            for file in _FILES
            for descriptor in file.services_by_name.values()
        }
        health = HealthServicer(self._backend, self._shutdown, services=services)
        servicers: dict[str, object] = {
            "inference.GRPCInferenceService": InferenceServicer(self._backend, self._shutdown),
            "tlserve.v1.Tlserve": TlserveServicer(self._backend, self._shutdown),
            "grpc.health.v1.Health": health,
        }
        handlers = [
            service_handlers(
                services[name],
                servicer,
                self._observer,
                # Health is asked, and answered, to the very end.
                admit=nullcontext if servicer is health else self._shutdown.call,
            )
            for name, servicer in servicers.items()
        ]
        return handlers + _reflection_handlers((*servicers, *_REFLECTION))


def _reflection_handlers(names: tuple[str, ...]) -> list[grpc.GenericRpcHandler[Any, Any]]:
    """Reflection in both its packages: their messages are equal on the wire."""
    servicer = reflection.aio.ReflectionServicer(names, pool=_reflection_pool())  # type: ignore[attr-defined]
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return [
        grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler}) for name in _REFLECTION
    ]


def _reflection_pool() -> DescriptorPool:
    """All that can be called here; the default pool may hold another `inference` than ours."""
    pool = DescriptorPool()
    files: tuple[FileDescriptor, ...] = (*_FILES, reflection_pb2.DESCRIPTOR)
    for file in files:
        pool.AddSerializedFile(file.serialized_pb)
    return pool


def _checked(address: str) -> str:
    """`address`; raises ValueError for a port that gRPC would take modulo 65536."""
    if not address.startswith("unix:") and not 0 <= int(address.rpartition(":")[2]) <= 65535:
        raise ValueError(f"no such port: {address}")
    return address


def _with_port(address: str, port: int) -> str:
    return f"{address.rpartition(':')[0]}:{port}"
