"""`AsyncClient`: tlserve.v1 for asyncio. The same names as `Client`; streams are async iterators."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from google.protobuf.message import Message
from grpc import aio

from tlserve.client import operations as ops
from tlserve.client.answers import Classification, read_event, read_stream_answer
from tlserve.client.channel import READY_POLL_SECONDS, channel_options, serialize
from tlserve.client.download import download
from tlserve.client.errors import not_ready, translated
from tlserve.core.backbones import BackboneDescription
from tlserve.core.errors import DeadlinePassed, TlserveError, Unavailable
from tlserve.rpc._gen import tlserve_v1_pb2 as v1
from tlserve.rpc.backend import (
    AddedImage,
    BackboneLine,
    Comparison,
    ModelEvent,
    ModelSummary,
    VersionLine,
)

Answer = TypeVar("Answer")


class AsyncClient:
    """A connection to one tlserve; connects on the first call. Make it inside a running event loop.

    timeout_seconds: for each call that is not a stream (None: no limit).
    Every method raises branches of `tlserve.core.errors`; nothing is retried except by `wait_ready`.
    """

    def __init__(self, address: str = ops.DEFAULT_ADDRESS, *, timeout_seconds: float | None = 30.0) -> None:
        self.address = address
        self.timeout_seconds = timeout_seconds
        self._channel = aio.insecure_channel(address, options=channel_options(address))
        self._streams: set[aio.Call] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; streams that are still open are cancelled."""
        # The channel overlooks a stream that nobody awaits at this moment, and the server would go on.
        for call in tuple(self._streams):
            call.cancel()
        await self._channel.close(None)

    # -- classify

    async def classify(
        self, model: str, images: Sequence[ops.Image], *, version: str = "", top_k: int = 5
    ) -> list[Classification]:
        """Answers of one version for all images, in one request: for many images use `classify_stream`."""
        return await self._run(ops.classify(model, images, version=version, top_k=top_k))

    async def classify_stream(
        self,
        model: str,
        images: Iterable[ops.Image] | AsyncIterable[ops.Image],
        *,
        version: str = "",
        top_k: int = 5,
    ) -> AsyncIterator[Classification]:
        """One answer per image, in their order, while more images are read and sent.

        An image that does not decode gets an answer with its `error`; the stream goes on. A file that
        cannot be read ends it, after the answers to those before it.
        """
        failed: list[TlserveError] = []

        async def requests() -> AsyncIterator[v1.ClassifyRequest]:
            try:
                async for image in _each(images):
                    yield await asyncio.to_thread(ops.stream_request, model, image, version, top_k)
            except TlserveError as exc:  # gRPC would swallow it in its own task
                failed.append(exc)

        method = self._channel.stream_stream(
            ops.V1 + "ClassifyStream",
            request_serializer=serialize,
            response_deserializer=v1.ClassifyResponse.FromString,
        )
        async for answer in self._answers(self._opened(method(requests())), read_stream_answer):
            yield answer
        if failed:
            raise failed[0]

    # -- models and versions

    async def models(self) -> list[ModelSummary]:
        return await self._run(ops.models())

    async def model(self, name: str) -> ModelSummary:
        return await self._run(ops.model(name))

    async def versions(self, model: str) -> list[VersionLine]:
        """Ascending by number."""
        return await self._run(ops.versions(model))

    async def report(self, model: str, version: str = "") -> dict[str, Any]:
        """What training and the judge found about a version."""
        return await self._run(ops.report(model, version))

    async def report_page(self, model: str, version: str = "") -> str:
        """The same as one HTML file. It is written first if need be, which may wait for a pass under way."""
        return await self._run(ops.report_page(model, version))

    def watch(self, model: str = "") -> AsyncIterator[ModelEvent]:
        """Events from now on, of one model or of all; ends when the server stops."""
        request = v1.WatchModelRequest(model=model)
        return self._stream(ops.V1 + "WatchModel", request, v1.ModelEvent, read_event)

    # -- what a person decides

    async def retrain(self, model: str, *, accept_deletions: bool = False) -> str:
        """Queue a pass even if nothing changed; returns its job id."""
        return await self._run(ops.retrain(model, accept_deletions=accept_deletions))

    async def promote(self, model: str, version: str) -> VersionLine:
        return await self._run(ops.promote(model, version))

    async def rollback(self, model: str) -> VersionLine:
        """Back to the previous version; promotion is manual from then on."""
        return await self._run(ops.rollback(model))

    async def pin(self, model: str, version: str, pinned: bool = True) -> VersionLine:
        return await self._run(ops.pin(model, version, pinned=pinned))

    async def set_promotion(self, model: str, mode: str) -> ModelSummary:
        """mode: auto | manual | frozen, or empty for what the settings say."""
        return await self._run(ops.set_promotion(model, mode))

    async def set_backbone(self, model: str, backbone: str) -> ModelSummary:
        """What the model learns on from now on; empty for what the settings say. A pass is queued.

        The server loads it first, which may download weights: a client for it needs a `timeout_seconds`
        of minutes, or None.
        """
        return await self._run(ops.set_backbone(model, backbone))

    async def compare(self, model: str, backbones: Iterable[str]) -> Comparison:
        """What each backbone would reach and cost with the model's images.

        The server does it in the background, in minutes: a client for it needs a `timeout_seconds` to
        match, or None. A backbone that cannot be used is a row with its `error`.
        """
        return await self._run(ops.compare(model, backbones))

    async def add_images(self, model: str, label: str, files: Iterable[str | Path]) -> list[AddedImage]:
        """Label files: the server writes copies into the class's folder."""
        parts = [await self._run(part) for part in ops.add_images(model, label, files)]
        return [added for part in parts for added in part]

    async def export(self, model: str, version: str, path: str | Path) -> int:
        """Write the whole graph of a version to `path`, which appears when complete; returns its bytes."""
        request = v1.ExportRequest(model=model, version=version)
        chunks = self._stream(ops.V1 + "Export", request, v1.ExportChunk, lambda chunk: chunk.data)
        n_bytes = 0
        with download(Path(path)) as file:
            async for chunk in chunks:
                n_bytes += await asyncio.to_thread(file.write, chunk)
        return n_bytes

    async def backbones(self) -> list[BackboneLine]:
        return await self._run(ops.backbones())

    async def backbone(self, name: str, *, measure: bool = False) -> BackboneDescription:
        """Load one backbone on the server and tell all about it.

        It waits for a pass that is under way, and a plugin may download weights: a client for it needs a
        `timeout_seconds` of minutes, or None. measure: make its build too, and run that for some seconds.
        """
        return await self._run(ops.backbone(name, measure=measure))

    # -- readiness

    async def ready(self, model: str = "") -> bool:
        """Whether the server (or one model) answers requests; False where nobody listens."""
        try:
            return await self._run(ops.ready(model))
        except (Unavailable, DeadlinePassed):
            return False

    async def wait_ready(self, timeout_seconds: float = 30.0, *, model: str = "") -> None:
        """Return once `ready`; raises Unavailable when that takes longer than `timeout_seconds`."""
        give_up = time.monotonic() + timeout_seconds
        while not await self.ready(model):
            if time.monotonic() >= give_up:
                raise not_ready(self.address, model, timeout_seconds)
            await asyncio.sleep(READY_POLL_SECONDS)

    # -- transport

    async def _run(self, operation: ops.Operation[Answer]) -> Answer:
        method = self._channel.unary_unary(
            operation.method,
            request_serializer=serialize,
            response_deserializer=operation.response.FromString,
        )
        try:
            return operation.read(await method(operation.request, timeout=self.timeout_seconds))
        except aio.AioRpcError as exc:
            raise self._translated(exc) from exc

    def _stream(
        self, method: str, request: Message, response: type[Message], read: Callable[[Any], Answer]
    ) -> AsyncIterator[Answer]:
        call = self._channel.unary_stream(
            method, request_serializer=serialize, response_deserializer=response.FromString
        )
        return self._answers(self._opened(call(request)), read)

    def _opened(self, call: Any) -> Any:
        self._streams.add(call)
        call.add_done_callback(self._streams.discard)
        return call

    async def _answers(self, call: Any, read: Callable[[Any], Answer]) -> AsyncIterator[Answer]:
        try:
            async for answer in call:
                yield read(answer)
        except aio.AioRpcError as exc:
            raise self._translated(exc) from exc
        finally:
            call.cancel()

    def _translated(self, exc: aio.AioRpcError) -> TlserveError:
        return translated(exc.code(), exc.details() or "", self.address)


async def _each(images: Iterable[ops.Image] | AsyncIterable[ops.Image]) -> AsyncIterator[ops.Image]:
    if isinstance(images, AsyncIterable):
        async for image in images:
            yield image
    else:
        for image in images:
            yield image
