"""Servicers to gRPC handlers: errors become statuses, and calls are observed, once for all of them.

A servicer is a plain object with one method per RPC, in snake_case, that takes the request (or an async
iterator of requests) and `seconds_left`, the time until the caller's deadline or None. It knows no gRPC.
An RPC that the servicer lacks answers UNIMPLEMENTED.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, aclosing, nullcontext
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc import aio

from tlserve.core.errors import BadInput, TlserveError
from tlserve.rpc.status import details_of, status_of

log = logging.getLogger(__name__)

Context = aio.ServicerContext[Any, Any]
CallObserver = Callable[[str, str, float], None]
"""Told of every finished call: method ("package.Service/Method"), status name, seconds."""
Admit = Callable[[], AbstractContextManager[None]]
"""Entered by every call before anything else; raises what the caller is to be told instead."""


def service_handlers(
    service: ServiceDescriptor,
    servicer: object,
    observer: CallObserver | None = None,
    *,
    admit: Admit = nullcontext,
) -> grpc.GenericRpcHandler[Any, Any]:
    """Handlers for all methods of `service`, answered by `servicer` within `admit()`, which may refuse."""
    around = _Around(observer or _ignore, admit)
    return grpc.method_handlers_generic_handler(
        service.full_name, {method.name: _handler(method, servicer, around) for method in service.methods}
    )


@dataclass(frozen=True, slots=True)
class _Around:
    """What every call goes through."""

    observer: CallObserver
    admit: Admit


def snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _ignore(method: str, status: str, seconds: float) -> None:
    """Nobody watches."""


def _handler(method: MethodDescriptor, servicer: object, around: _Around) -> grpc.RpcMethodHandler[Any, Any]:
    name = f"{method.containing_service.full_name}/{method.name}"
    behaviour = getattr(servicer, snake_case(method.name), None)
    parse = _parser(method)
    # Without a deserialiser requests come as bytes: gRPC would call those that do not parse a fault of ours.
    options: dict[str, Any] = {"request_deserializer": None, "response_serializer": _serialize}
    if behaviour is None:
        return grpc.unary_unary_rpc_method_handler(_unimplemented(method.name), **options)
    if method.server_streaming:
        if method.client_streaming:
            stream = _observed_stream(name, behaviour, _each(parse), around)
            return grpc.stream_stream_rpc_method_handler(stream, **options)
        stream = _observed_stream(name, behaviour, parse, around)
        return grpc.unary_stream_rpc_method_handler(stream, **options)
    return grpc.unary_unary_rpc_method_handler(_observed_unary(name, behaviour, parse, around), **options)


def _parser(method: MethodDescriptor) -> Callable[[bytes], Message]:
    message = GetMessageClass(method.input_type)

    def parse(raw: bytes) -> Message:
        try:
            return message.FromString(raw)
        except DecodeError as exc:
            raise BadInput(f"the request is not a {method.input_type.full_name} message") from exc

    return parse


def _each(parse: Callable[[bytes], Message]) -> Callable[[AsyncIterator[bytes]], AsyncIterator[Message]]:
    async def parse_all(requests: AsyncIterator[bytes]) -> AsyncIterator[Message]:
        async for raw in requests:
            yield parse(raw)

    return parse_all


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _unimplemented(method: str) -> Callable[[bytes, Context], Awaitable[NoReturn]]:
    async def call(request: bytes, context: Context) -> NoReturn:
        await context.abort(
            grpc.StatusCode.UNIMPLEMENTED,
            f"tlserve does not offer {method}: models come from the watched folders, tensors travel in the "
            "messages, settings are given at the start",
        )

    return call


def _observed_unary(
    name: str,
    behaviour: Callable[[Message, float | None], Awaitable[Message]],
    parse: Callable[[bytes], Message],
    around: _Around,
) -> Callable[[bytes, Context], Awaitable[Message]]:
    async def call(request: bytes, context: Context) -> Message:
        started = time.perf_counter()
        status = grpc.StatusCode.OK
        try:
            with around.admit():
                return await behaviour(parse(request), context.time_remaining())
        except asyncio.CancelledError:
            status = grpc.StatusCode.CANCELLED
            raise
        except Exception as exc:
            status = _status_of_any(name, exc)
            await context.abort(status, _details_of_any(exc))
        finally:
            around.observer(name, status.name, time.perf_counter() - started)

    return call


def _observed_stream(
    name: str,
    behaviour: Callable[[Any, float | None], AsyncGenerator[Message]],
    parse: Callable[[Any], Any],
    around: _Around,
) -> Callable[[Any, Context], AsyncIterator[Message]]:
    async def call(request: Any, context: Context) -> AsyncIterator[Message]:
        started = time.perf_counter()
        status = grpc.StatusCode.OK
        try:
            with around.admit():
                async with aclosing(behaviour(parse(request), context.time_remaining())) as answers:
                    async for answer in answers:
                        yield answer
        except (asyncio.CancelledError, GeneratorExit):
            status = grpc.StatusCode.CANCELLED
            raise
        except Exception as exc:
            status = _status_of_any(name, exc)
            await context.abort(status, _details_of_any(exc))
        finally:
            around.observer(name, status.name, time.perf_counter() - started)

    return call


def _status_of_any(name: str, exc: Exception) -> grpc.StatusCode:
    if isinstance(exc, TlserveError):
        return status_of(exc)
    log.error("%s failed unexpectedly", name, exc_info=exc)
    return grpc.StatusCode.INTERNAL


def _details_of_any(exc: Exception) -> str:
    if isinstance(exc, TlserveError):
        return details_of(exc)
    return f"internal error ({type(exc).__name__}); the server's log has the details"
