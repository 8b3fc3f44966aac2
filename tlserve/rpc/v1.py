"""`tlserve.v1.Tlserve`: classify, watch models learn, decide what goes live."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from tlserve.core.errors import BadImage, BadInput, InvalidRequest, QueueFull
from tlserve.core.lifecycle import Promotion
from tlserve.rpc import messages
from tlserve.rpc._gen import tlserve_v1_pb2 as v1
from tlserve.rpc.backend import AddedImage, Backend
from tlserve.rpc.names import model_name, new_model_name, plain_name, version_name
from tlserve.rpc.status import details_of
from tlserve.rpc.streams import Shutdown, accepted, in_order, until_set

DEFAULT_TOP_K = 5
STREAM_AHEAD = 32
"""Requests of one stream that are in work at once."""
QUEUE_RETRY_SECONDS = 0.02
EXPORT_CHUNK_BYTES = 1024 * 1024


class TlserveServicer:
    """Everything the command line needs, over a Backend."""

    def __init__(self, backend: Backend, shutdown: Shutdown) -> None:
        self._backend = backend
        self._shutdown = shutdown

    # -- classify

    async def classify(self, request: v1.ClassifyRequest, seconds_left: float | None) -> v1.ClassifyResponse:
        name = model_name(request.model)
        version = version_name(name, request.version)
        if not request.images:
            raise BadInput("the request holds no image")
        images = list(request.images)
        answer = await self._backend.predict(name, version, images, timeout_seconds=seconds_left)
        results = messages.classifications(answer, request.top_k or DEFAULT_TOP_K)
        return v1.ClassifyResponse(model=answer.model, version=answer.version, results=results, id=request.id)

    async def classify_stream(
        self, requests: AsyncIterator[v1.ClassifyRequest], seconds_left: float | None
    ) -> AsyncIterator[v1.ClassifyResponse]:
        async def answer(request: v1.ClassifyRequest) -> v1.ClassifyResponse:
            while True:
                try:
                    return await self.classify(request, seconds_left)
                except InvalidRequest as exc:
                    return v1.ClassifyResponse(model=request.model, id=request.id, error=details_of(exc))
                except QueueFull:
                    # A stream can wait: what it has not sent yet waits behind this request.
                    await asyncio.sleep(QUEUE_RETRY_SECONDS)

        async for response in in_order(accepted(requests, self._shutdown), answer, ahead=STREAM_AHEAD):
            yield response

    # -- models and versions

    async def list_models(self, request: v1.ListModelsRequest, _: float | None) -> v1.ListModelsResponse:
        models = [messages.model_summary(line) for line in self._backend.list_models()]
        return v1.ListModelsResponse(models=models)

    async def get_model(self, request: v1.GetModelRequest, _: float | None) -> v1.ModelSummary:
        return messages.model_summary(self._backend.get_model(model_name(request.model)))

    async def list_versions(
        self, request: v1.ListVersionsRequest, _: float | None
    ) -> v1.ListVersionsResponse:
        found = await self._backend.list_versions(model_name(request.model))
        return v1.ListVersionsResponse(versions=[messages.version_line(line) for line in found])

    async def get_report(self, request: v1.GetReportRequest, _: float | None) -> v1.GetReportResponse:
        name = model_name(request.model)
        version = version_name(name, request.version)
        report = await self._backend.get_report(name, version)
        page = await self._backend.report_page(name, version) if request.html else ""
        return v1.GetReportResponse(json=json.dumps(report), html=messages.printable(page))

    async def watch_model(
        self, request: v1.WatchModelRequest, _: float | None
    ) -> AsyncIterator[v1.ModelEvent]:
        events = self._backend.watch(model_name(request.model) if request.model else "")
        async for event in until_set(self._shutdown.closing, events):
            yield messages.model_event(event)

    # -- what a person decides

    async def retrain(self, request: v1.RetrainRequest, _: float | None) -> v1.RetrainResponse:
        job_id = await self._backend.retrain(
            model_name(request.model), accept_deletions=request.accept_deletions
        )
        return v1.RetrainResponse(job_id=job_id)

    async def promote(self, request: v1.PromoteRequest, _: float | None) -> v1.VersionLine:
        name = model_name(request.model)
        if not request.version:
            raise BadInput("promote needs the number of a version")
        return messages.version_line(await self._backend.promote(name, version_name(name, request.version)))

    async def rollback(self, request: v1.RollbackRequest, _: float | None) -> v1.VersionLine:
        return messages.version_line(await self._backend.rollback(model_name(request.model)))

    async def pin(self, request: v1.PinRequest, _: float | None) -> v1.VersionLine:
        name = model_name(request.model)
        version = version_name(name, request.version)
        return messages.version_line(await self._backend.pin(name, version, pinned=not request.unpin))

    async def set_promotion(self, request: v1.SetPromotionRequest, _: float | None) -> v1.ModelSummary:
        if request.mode and request.mode not in set(Promotion):
            raise BadInput(f"promotion is one of {', '.join(Promotion)}, or empty for what the settings say")
        name = model_name(request.model)
        return messages.model_summary(await self._backend.set_promotion(name, request.mode))

    async def set_backbone(self, request: v1.SetBackboneRequest, _: float | None) -> v1.ModelSummary:
        name = model_name(request.model)
        return messages.model_summary(await self._backend.set_backbone(name, request.backbone))

    async def compare(self, request: v1.CompareRequest, _: float | None) -> v1.CompareResponse:
        name = model_name(request.model)
        backbones = list(dict.fromkeys(request.backbones))
        if not backbones or not all(backbones):
            raise BadInput("a comparison needs the names of backbones, none of them empty")
        return messages.comparison(await self._backend.compare(name, backbones))

    async def add_images(self, request: v1.AddImagesRequest, _: float | None) -> v1.AddImagesResponse:
        name = new_model_name(request.model)
        label = plain_name(request.label, what="label")
        for image in request.images:
            plain_name(image.name, what="file name")
        added = [await self._added(name, label, image) for image in request.images]
        return v1.AddImagesResponse(images=[messages.added_image(image) for image in added])

    async def _added(self, model: str, label: str, image: v1.NewImage) -> AddedImage:
        try:
            return await self._backend.add_image(model, label, image.name, image.data)
        except BadImage as exc:
            raise BadImage(f"{image.name or 'an image without a name'}: {exc}") from exc

    async def list_backbones(
        self, request: v1.ListBackbonesRequest, _: float | None
    ) -> v1.ListBackbonesResponse:
        found = await self._backend.list_backbones()
        return v1.ListBackbonesResponse(backbones=[messages.backbone_line(line) for line in found])

    async def get_backbone(self, request: v1.GetBackboneRequest, _: float | None) -> v1.Backbone:
        if not request.name:
            raise BadInput("the request names no backbone")
        return messages.backbone(await self._backend.get_backbone(request.name, measure=request.measure))

    async def export(self, request: v1.ExportRequest, _: float | None) -> AsyncIterator[v1.ExportChunk]:
        name = model_name(request.model)
        graph = memoryview(await self._backend.export(name, version_name(name, request.version)))
        for at in range(0, len(graph), EXPORT_CHUNK_BYTES):
            piece = bytes(graph[at : at + EXPORT_CHUNK_BYTES])
            yield v1.ExportChunk(data=piece, total_bytes=len(graph))
