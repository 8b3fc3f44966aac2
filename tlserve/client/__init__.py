"""Talk to a running tlserve from Python: `Client`, and `AsyncClient` for asyncio.

    with Client("127.0.0.1:8001") as client:
        for answer in client.classify("flowers", ["daisy.jpg", Path("rose.png"), some_bytes]):
            print(answer.label, answer.probability)

Errors are those of `tlserve.core.errors`: NotFound, InvalidRequest, NotReady, Unavailable, QueueFull ...
"""

from __future__ import annotations

from tlserve.client.answers import Classification
from tlserve.client.asynchronous import AsyncClient
from tlserve.client.errors import NobodyListens, ServerBusy, ServerProblem
from tlserve.client.operations import DEFAULT_ADDRESS, Image
from tlserve.client.synchronous import Client
from tlserve.core.backbones import BackboneDescription, Speed
from tlserve.rpc.backend import (
    AddedImage,
    BackboneLine,
    Comparison,
    ModelEvent,
    ModelSummary,
    VersionLine,
)

__all__ = [
    "DEFAULT_ADDRESS",
    "AddedImage",
    "AsyncClient",
    "BackboneDescription",
    "BackboneLine",
    "Classification",
    "Client",
    "Comparison",
    "Image",
    "ModelEvent",
    "ModelSummary",
    "NobodyListens",
    "ServerBusy",
    "ServerProblem",
    "Speed",
    "VersionLine",
]
