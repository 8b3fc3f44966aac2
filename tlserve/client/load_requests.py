"""The requests of a load run: made once from what a model's metadata asks for, and only sent afterwards.

Works with any server of the Open Inference Protocol v2, as long as it tells the inputs of its models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

from tlserve.client.channel import channel_options, serialize
from tlserve.client.errors import translated
from tlserve.client.load_pictures import Encoded, Tensor, encoded_batches, tensor_batches
from tlserve.client.load_report import LoadSettings
from tlserve.client.operations import OIP
from tlserve.core.errors import BadInput, SettingsError, TlserveError
from tlserve.rpc._gen import inference_pb2 as oip
from tlserve.rpc.tensors import IMAGE, PIXELS, join_bytes

DEFAULT_SIDE = 224
ASK_SECONDS = 30.0
Declared = oip.ModelMetadataResponse.TensorMetadata


@dataclass(frozen=True, slots=True)
class Question:
    """What to ask.

    files: encoded images; without any, synthetic ones.
    input_name: of the model's inputs; `image` and `pixels` also mean the one that takes files or numbers.
        Empty: the one that takes files, else the only one.
    size: (height, width) of pixels; None: the model's own, where it tells it, else 224 x 224.
    """

    models: tuple[str, ...]
    files: tuple[Path, ...] = ()
    version: str = ""
    batch: int = 1
    input_name: str = ""
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not self.models or not all(self.models):
            raise SettingsError("name at least one model, and none with an empty name")
        if self.batch < 1 or (self.size is not None and min(self.size) < 1):
            raise SettingsError("a batch needs at least 1 image, and an image at least 1 pixel each way")


@dataclass(frozen=True, slots=True)
class Requests:
    """Serialised requests, models taking turns.

    heads, tails: a request is the head of a model (its name and version) and one of its tails (the images):
    protobuf messages written one behind the other are one message. So 1,000 models share their images.
    """

    models: tuple[str, ...]
    heads: tuple[bytes, ...]
    tails: tuple[tuple[bytes, ...], ...]
    batch: int
    description: str = ""
    """Of the images, in words."""

    def take(self, turn: int) -> tuple[str, bytes]:
        """The model and the bytes of the request whose turn it is."""
        lap, index = divmod(turn, len(self.models))
        tails = self.tails[index]
        return self.models[index], self.heads[index] + tails[lap % len(tails)]

    @property
    def largest_bytes(self) -> int:
        return max(len(tail) for tails in self.tails for tail in tails)


@dataclass(frozen=True, slots=True)
class Share:
    """What one process of the generator is to do: its part of the clients, or of the rate."""

    number: int
    settings: LoadSettings
    requests: Requests


def prepare(address: str, question: Question) -> Requests:
    """Ask the server what the models take, and make requests of it.

    Raises the branches of `tlserve.core.errors` that the server's answer means, Unavailable where nobody
    listens, and BadInput where the inputs do not fit the question.
    """
    made: dict[Encoded | Tensor, tuple[tuple[bytes, ...], str]] = {}
    tails: list[tuple[bytes, ...]] = []
    with grpc.insecure_channel(address, options=channel_options(address)) as channel:
        server = Server(channel, address)
        for model in question.models:
            wanted = server.wanted(model, question)
            if wanted not in made:
                made[wanted] = _tails(wanted, question)
            tails.append(made[wanted][0])
    heads = tuple(
        oip.ModelInferRequest(model_name=model, model_version=question.version).SerializeToString()
        for model in question.models
    )
    described = ", ".join(dict.fromkeys(words for _, words in made.values()))
    if len(heads) == 1:
        # Joined here, nothing is copied when a request is sent.
        tails, heads = [tuple(heads[0] + tail for tail in tails[0])], (b"",)
    return Requests(question.models, heads, tuple(tails), question.batch, described)


def infer_tail(name: str, datatype: str, shape: Sequence[int], raw: bytes) -> bytes:
    """Everything of a ModelInfer request but the model: one input, with its raw contents."""
    request = oip.ModelInferRequest(raw_input_contents=[raw])
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    return request.SerializeToString()


def _tails(wanted: Encoded | Tensor, question: Question) -> tuple[tuple[bytes, ...], str]:
    if isinstance(wanted, Encoded):
        encoded, described = encoded_batches(question.files, question.batch)
        raws = [join_bytes(images) for images in encoded]
        shape, datatype = (question.batch, *wanted.rest), "BYTES"
    else:
        raws, described = tensor_batches(wanted, question.files, question.batch)
        shape, datatype = (question.batch, *wanted.rest), wanted.datatype
    tails = tuple(infer_tail(wanted.name, datatype, shape, raw) for raw in raws)
    return tails, f"input {wanted.name!r}: {described}"


def chosen_input(inputs: Sequence[Declared], name: str, model: str) -> Declared:
    """The input called `name`, or of that kind; for no name the one that takes files, else the only one.

    Raises BadInput where that is none, or cannot be told.
    """
    known = ", ".join(f"{one.name} ({one.datatype})" for one in inputs)
    if not inputs:
        raise BadInput(f"{model} tells no inputs in its metadata; declare them in its server's configuration")
    named = [one for one in inputs if one.name == name]
    files = [one for one in inputs if one.datatype == "BYTES"]
    numbers = [one for one in inputs if one.datatype != "BYTES"]
    fitting = named or {IMAGE: files, PIXELS: numbers, "": files or numbers}.get(name, [])
    if not fitting:
        raise BadInput(f"{model} has no input {name!r}; it has {known}")
    if len(fitting) > 1:
        raise BadInput(f"{model} has the inputs {known}; name the one to send with --input")
    return fitting[0]


class Server:
    """What a server tells of its models."""

    def __init__(self, channel: grpc.Channel, address: str) -> None:
        self._channel, self._address = channel, address

    def wanted(self, model: str, question: Question) -> Encoded | Tensor:
        """What the model is to be given."""
        asked = oip.ModelMetadataRequest(name=model, version=question.version)
        metadata: oip.ModelMetadataResponse = self._ask("ModelMetadata", asked, oip.ModelMetadataResponse)
        declared = chosen_input(metadata.inputs, question.input_name, f"model {model!r}")
        shape = list(declared.shape)
        if declared.datatype == "BYTES":
            return Encoded(declared.name, tuple(abs(side) for side in shape[1:]))
        if shape and shape[0] not in (-1, question.batch):
            raise BadInput(f"model {model!r} takes {shape[0]} images in a request; give --batch {shape[0]}")
        return Tensor(declared.name, declared.datatype, self._sides(model, shape[1:], question))

    def _sides(self, model: str, sides: list[int], question: Question) -> tuple[int, ...]:
        """`sides` of one image without holes: height and width filled in."""
        holes = [index for index, side in enumerate(sides) if side < 0]
        if not holes:
            return tuple(sides)
        if len(sides) != 3 or len(holes) < 2:
            raise BadInput(f"model {model!r}: cannot tell what an input of shape {[-1, *sides]} takes")
        if len(holes) == 3:
            sides[2] = 3
        sides[holes[0]], sides[holes[1]] = question.size or self._own_size(model, question.version)
        return tuple(sides)

    def _own_size(self, model: str, version: str) -> tuple[int, int]:
        try:
            asked = oip.ModelConfigRequest(name=model, version=version)
            answer: oip.ModelConfigResponse = self._ask("ModelConfig", asked, oip.ModelConfigResponse)
        except TlserveError:  # an extension that servers need not have
            return DEFAULT_SIDE, DEFAULT_SIDE
        told = answer.config.parameters
        sides = [told[name].string_value for name in ("height", "width") if name in told]
        if len(sides) == 2 and all(side.isdigit() for side in sides):
            return int(sides[0]), int(sides[1])
        return DEFAULT_SIDE, DEFAULT_SIDE

    def _ask(self, method: str, request: Message, response: type[Message]) -> Any:
        call = self._channel.unary_unary(
            OIP + method, request_serializer=serialize, response_deserializer=response.FromString
        )
        try:
            return call(request, timeout=ASK_SECONDS)
        except grpc.RpcError as exc:
            raise translated(exc.code(), exc.details() or "", self._address) from exc
