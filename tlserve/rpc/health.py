"""`grpc.health.v1.Health`: the server, its services, and every model under its own name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from enum import IntEnum

from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from tlserve.core.errors import NotFound
from tlserve.rpc.backend import Backend
from tlserve.rpc.names import model_name, shortened
from tlserve.rpc.streams import Shutdown


class Status(IntEnum):
    """HealthCheckResponse.ServingStatus."""

    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


class HealthServicer:
    """Readiness, asked of the Backend each time; a watch looks every `poll_seconds`."""

    def __init__(
        self, backend: Backend, shutdown: Shutdown, *, services: Collection[str], poll_seconds: float = 0.2
    ) -> None:
        self._backend = backend
        self._shutdown = shutdown
        self._services = frozenset(services)
        self._poll_seconds = poll_seconds

    async def check(self, request: health_pb2.HealthCheckRequest, _: float | None) -> Message:
        return _response(self._status(request.service))

    async def watch(self, request: health_pb2.HealthCheckRequest, _: float | None) -> AsyncIterator[Message]:
        told: Status | None = None
        closing = self._shutdown.closing
        while True:
            last = closing.is_set()
            try:
                status = self._status(request.service)
            except NotFound:
                status = Status.SERVICE_UNKNOWN
            if status != told:
                told = status
                yield _response(status)
            if last:
                return
            try:
                await asyncio.wait_for(self._changed(), self._poll_seconds)
            except TimeoutError:
                continue

    async def _changed(self) -> None:
        """Return when the next step of a shutdown is taken."""
        await (self._shutdown.closing if self._shutdown.draining.is_set() else self._shutdown.draining).wait()

    def _status(self, service: str) -> Status:
        """Raises NotFound for a name that is neither a service nor a model."""
        if not service or service in self._services:
            ready = self._backend.server_ready()
        else:
            try:
                ready = self._backend.model_ready(self._backend.get_model(model_name(service)).model, "")
            except NotFound as exc:
                raise NotFound(f"neither a service nor a model: {shortened(service)!r}") from exc
        serving = ready and not self._shutdown.draining.is_set()
        return Status.SERVING if serving else Status.NOT_SERVING


def _response(status: Status) -> Message:
    response: Message = health_pb2.HealthCheckResponse(status=int(status))
    return response
