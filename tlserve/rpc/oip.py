"""`inference.GRPCInferenceService`: what tritonclient and KServe clients call."""

from __future__ import annotations

from collections.abc import AsyncIterator

from tlserve import __version__
from tlserve.core.errors import BadInput, NotFound, TlserveError
from tlserve.rpc import describe
from tlserve.rpc._gen import inference_pb2 as oip
from tlserve.rpc.backend import Backend
from tlserve.rpc.names import model_name, version_name
from tlserve.rpc.outputs import wanted_outputs, whole_number, write_answer
from tlserve.rpc.status import details_of
from tlserve.rpc.streams import Shutdown, accepted, in_order
from tlserve.rpc.tensors import read_images

EXTENSIONS = ("classification", "model_configuration", "model_repository(index)", "statistics")
STREAM_AHEAD = 32
"""Requests of one stream that are in work at once."""


class InferenceServicer:
    """The six RPCs of the protocol and four of Triton's extensions, over a Backend."""

    def __init__(self, backend: Backend, shutdown: Shutdown) -> None:
        self._backend = backend
        self._shutdown = shutdown

    async def server_live(self, request: oip.ServerLiveRequest, _: float | None) -> oip.ServerLiveResponse:
        return oip.ServerLiveResponse(live=True)

    async def server_ready(self, request: oip.ServerReadyRequest, _: float | None) -> oip.ServerReadyResponse:
        ready = self._backend.server_ready() and not self._shutdown.draining.is_set()
        return oip.ServerReadyResponse(ready=ready)

    async def model_ready(self, request: oip.ModelReadyRequest, _: float | None) -> oip.ModelReadyResponse:
        return oip.ModelReadyResponse(ready=self._model_ready(request.name, request.version))

    def _model_ready(self, name: str, version: str) -> bool:
        if self._shutdown.draining.is_set():
            return False
        try:
            return self._backend.model_ready(model_name(name), version_name(name, version))
        except (NotFound, BadInput):
            return False

    async def server_metadata(
        self, request: oip.ServerMetadataRequest, _: float | None
    ) -> oip.ServerMetadataResponse:
        return oip.ServerMetadataResponse(name="tlserve", version=__version__, extensions=EXTENSIONS)

    async def model_metadata(
        self, request: oip.ModelMetadataRequest, _: float | None
    ) -> oip.ModelMetadataResponse:
        name = model_name(request.name)
        return describe.metadata(await self._backend.served_model(name, version_name(name, request.version)))

    async def model_config(self, request: oip.ModelConfigRequest, _: float | None) -> oip.ModelConfigResponse:
        name = model_name(request.name)
        served = await self._backend.served_model(name, version_name(name, request.version))
        return oip.ModelConfigResponse(config=describe.config(served))

    async def model_statistics(
        self, request: oip.ModelStatisticsRequest, _: float | None
    ) -> oip.ModelStatisticsResponse:
        name = model_name(request.name) if request.name else ""
        found = self._backend.statistics(name, version_name(name, request.version))
        return oip.ModelStatisticsResponse(model_stats=[describe.statistics(line) for line in found])

    async def repository_index(
        self, request: oip.RepositoryIndexRequest, _: float | None
    ) -> oip.RepositoryIndexResponse:
        if request.repository_name:
            raise NotFound("there is one repository, the watched root; leave repository_name empty")
        models = [
            describe.index(line) for line in self._backend.list_models() if line.ready or not request.ready
        ]
        return oip.RepositoryIndexResponse(models=models)

    async def model_infer(
        self, request: oip.ModelInferRequest, seconds_left: float | None
    ) -> oip.ModelInferResponse:
        name = model_name(request.model_name)
        version = version_name(name, request.model_version)
        wanted = wanted_outputs(request)
        images = read_images(request)
        limit = _time_limit(request, seconds_left)
        answer = await self._backend.predict(name, version, images, timeout_seconds=limit)
        return write_answer(request, answer, wanted)

    async def model_stream_infer(
        self, requests: AsyncIterator[oip.ModelInferRequest], seconds_left: float | None
    ) -> AsyncIterator[oip.ModelStreamInferResponse]:
        async def answer(request: oip.ModelInferRequest) -> oip.ModelStreamInferResponse:
            try:
                return oip.ModelStreamInferResponse(
                    infer_response=await self.model_infer(request, seconds_left)
                )
            except TlserveError as exc:
                # As Triton does: the id tells the client which request was refused.
                return oip.ModelStreamInferResponse(
                    error_message=details_of(exc), infer_response=oip.ModelInferResponse(id=request.id)
                )

        async for response in in_order(accepted(requests, self._shutdown), answer, ahead=STREAM_AHEAD):
            yield response


def _time_limit(request: oip.ModelInferRequest, seconds_left: float | None) -> float | None:
    """The shorter of the call's deadline and the request's `timeout` parameter, in seconds."""
    if "timeout" not in request.parameters:
        return seconds_left
    microseconds = whole_number(request.parameters["timeout"], "timeout")
    if microseconds < 0:
        raise BadInput(f"parameter 'timeout' is {microseconds}; it is a count of microseconds")
    if microseconds == 0:
        return seconds_left
    return min(microseconds / 1e6, seconds_left if seconds_left is not None else float("inf"))
