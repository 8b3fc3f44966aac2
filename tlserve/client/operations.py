"""What the service can be asked, free of transport: requests out, answers in.

`Client` and `AsyncClient` only carry these, so that the two cannot drift apart.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from tlserve.client.answers import (
    Classification,
    read_added,
    read_classifications,
    read_comparison,
    read_model,
    read_version,
)
from tlserve.client.backbones import read_backbone, read_description
from tlserve.core.backbones import BackboneDescription
from tlserve.core.errors import BadInput
from tlserve.rpc._gen import inference_pb2 as oip
from tlserve.rpc._gen import tlserve_v1_pb2 as v1
from tlserve.rpc.backend import AddedImage, BackboneLine, Comparison, ModelSummary, VersionLine

DEFAULT_ADDRESS = "127.0.0.1:8001"
UPLOAD_BYTES = 16 * 1024 * 1024
"""Files are added in requests of about this size."""
V1 = "/tlserve.v1.Tlserve/"
OIP = "/inference.GRPCInferenceService/"

Image = bytes | str | Path
"""Encoded bytes, or the path of a file that the client reads."""
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Operation(Generic[Answer]):
    """One unary call: where it goes, what is sent, how the answer is read."""

    method: str
    request: Message
    response: type[Message]
    read: Callable[[Any], Answer]


def classify(
    model: str, images: Sequence[Image], *, version: str, top_k: int
) -> Operation[list[Classification]]:
    request = v1.ClassifyRequest(
        model=model, version=version, images=[read_image(image) for image in images], top_k=_top_k(top_k)
    )
    return Operation(V1 + "Classify", request, v1.ClassifyResponse, read_classifications)


def stream_request(model: str, image: Image, version: str, top_k: int) -> v1.ClassifyRequest:
    """One image of a stream; its file is read here."""
    return v1.ClassifyRequest(model=model, version=version, images=[read_image(image)], top_k=_top_k(top_k))


def models() -> Operation[list[ModelSummary]]:
    return Operation(
        V1 + "ListModels",
        v1.ListModelsRequest(),
        v1.ListModelsResponse,
        lambda answer: [read_model(line) for line in answer.models],
    )


def model(name: str) -> Operation[ModelSummary]:
    return Operation(V1 + "GetModel", v1.GetModelRequest(model=name), v1.ModelSummary, read_model)


def versions(name: str) -> Operation[list[VersionLine]]:
    return Operation(
        V1 + "ListVersions",
        v1.ListVersionsRequest(model=name),
        v1.ListVersionsResponse,
        lambda answer: [read_version(line) for line in answer.versions],
    )


def report(name: str, version: str) -> Operation[dict[str, Any]]:
    return Operation(
        V1 + "GetReport",
        v1.GetReportRequest(model=name, version=version),
        v1.GetReportResponse,
        lambda answer: json.loads(answer.json),
    )


def report_page(name: str, version: str) -> Operation[str]:
    return Operation(
        V1 + "GetReport",
        v1.GetReportRequest(model=name, version=version, html=True),
        v1.GetReportResponse,
        lambda answer: answer.html,
    )


def retrain(name: str, *, accept_deletions: bool) -> Operation[str]:
    request = v1.RetrainRequest(model=name, accept_deletions=accept_deletions)
    return Operation(V1 + "Retrain", request, v1.RetrainResponse, lambda answer: answer.job_id)


def promote(name: str, version: str) -> Operation[VersionLine]:
    return Operation(
        V1 + "Promote", v1.PromoteRequest(model=name, version=version), v1.VersionLine, read_version
    )


def rollback(name: str) -> Operation[VersionLine]:
    return Operation(V1 + "Rollback", v1.RollbackRequest(model=name), v1.VersionLine, read_version)


def pin(name: str, version: str, *, pinned: bool) -> Operation[VersionLine]:
    request = v1.PinRequest(model=name, version=version, unpin=not pinned)
    return Operation(V1 + "Pin", request, v1.VersionLine, read_version)


def set_promotion(name: str, mode: str) -> Operation[ModelSummary]:
    request = v1.SetPromotionRequest(model=name, mode=mode)
    return Operation(V1 + "SetPromotion", request, v1.ModelSummary, read_model)


def set_backbone(name: str, backbone: str) -> Operation[ModelSummary]:
    request = v1.SetBackboneRequest(model=name, backbone=backbone)
    return Operation(V1 + "SetBackbone", request, v1.ModelSummary, read_model)


def compare(name: str, backbones: Iterable[str]) -> Operation[Comparison]:
    request = v1.CompareRequest(model=name, backbones=backbones)
    return Operation(V1 + "Compare", request, v1.CompareResponse, read_comparison)


def add_images(name: str, label: str, files: Iterable[str | Path]) -> Iterator[Operation[list[AddedImage]]]:
    """As many calls as keep each near UPLOAD_BYTES; all files are checked before the first is sent."""
    paths = [Path(file) for file in files]
    for path in paths:
        _check_file(path)
    images: list[v1.NewImage] = []
    for path in paths:
        images.append(v1.NewImage(name=path.name, data=read_image(path)))
        if sum(len(image.data) for image in images) >= UPLOAD_BYTES:
            yield _add_images(name, label, images)
            images = []
    if images:
        yield _add_images(name, label, images)


def _add_images(name: str, label: str, images: Sequence[v1.NewImage]) -> Operation[list[AddedImage]]:
    return Operation(
        V1 + "AddImages",
        v1.AddImagesRequest(model=name, label=label, images=images),
        v1.AddImagesResponse,
        lambda answer: [read_added(image) for image in answer.images],
    )


def backbones() -> Operation[list[BackboneLine]]:
    return Operation(
        V1 + "ListBackbones",
        v1.ListBackbonesRequest(),
        v1.ListBackbonesResponse,
        lambda answer: [read_backbone(line) for line in answer.backbones],
    )


def backbone(name: str, *, measure: bool) -> Operation[BackboneDescription]:
    request = v1.GetBackboneRequest(name=name, measure=measure)
    return Operation(V1 + "GetBackbone", request, v1.Backbone, read_description)


def ready(name: str) -> Operation[bool]:
    """Of the server, or of one model."""
    if name:
        request = oip.ModelReadyRequest(name=name)
        return Operation(OIP + "ModelReady", request, oip.ModelReadyResponse, lambda answer: answer.ready)
    return Operation(
        OIP + "ServerReady", oip.ServerReadyRequest(), oip.ServerReadyResponse, lambda answer: answer.ready
    )


def read_image(image: Image) -> bytes:
    """The bytes of an image; raises BadInput for a path that cannot be read."""
    if isinstance(image, bytes):
        return image
    path = Path(image)
    _check_file(path)
    try:
        return path.read_bytes()
    except OSError as exc:
        raise BadInput(f"cannot read {path}: {exc.strerror}") from exc


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise BadInput(f"{path} is a folder; name the image files in it")
    if not path.exists():
        raise BadInput(f"no such file: {path}")


def _top_k(top_k: int) -> int:
    if top_k < 1:
        raise BadInput(f"top_k is {top_k}; ask for at least 1 label")
    return min(top_k, 2**31)
