"""What a load run sends: made from a model's metadata, for tlserve and for other servers of the protocol."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc import aio
from PIL import Image

from tests.client.conftest import Running
from tests.rpc.colours import MODEL, picture
from tlserve.client.load import LoadSettings, Question, Requests, measure, prepare
from tlserve.client.load_pictures import made_up_picture
from tlserve.client.load_requests import chosen_input
from tlserve.core.errors import BadInput, SettingsError
from tlserve.rpc._gen import inference_pb2 as oip
from tlserve.rpc.tensors import read_images, split_bytes

Declared = oip.ModelMetadataResponse.TensorMetadata
FILES, NUMBERS = Declared(name="f", datatype="BYTES"), Declared(name="n", datatype="FP32")


@dataclass
class OtherServer:
    """A server of the protocol's core alone, whose one model declares what a test gives it."""

    address: str = ""
    inputs: list[Declared] = field(default_factory=list)
    asked: list[oip.ModelInferRequest] = field(default_factory=list)

    async def metadata(
        self, request: oip.ModelMetadataRequest, _: aio.ServicerContext[object, object]
    ) -> oip.ModelMetadataResponse:
        return oip.ModelMetadataResponse(name=request.name, inputs=self.inputs)

    async def infer(
        self, request: oip.ModelInferRequest, _: aio.ServicerContext[object, object]
    ) -> oip.ModelInferResponse:
        self.asked.append(request)
        return oip.ModelInferResponse(model_name=request.model_name)


@pytest.fixture
async def other() -> AsyncIterator[OtherServer]:
    found, server = OtherServer(), aio.server()
    handlers = {
        "ModelMetadata": grpc.unary_unary_rpc_method_handler(
            found.metadata,
            oip.ModelMetadataRequest.FromString,
            oip.ModelMetadataResponse.SerializeToString,
        ),
        "ModelInfer": grpc.unary_unary_rpc_method_handler(
            found.infer, oip.ModelInferRequest.FromString, oip.ModelInferResponse.SerializeToString
        ),
    }
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers)]
    )
    found.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield found
    await server.stop(0)


async def prepared(address: str, question: Question) -> Requests:
    return await asyncio.to_thread(prepare, address, question)


def read(requests: Requests, turn: int) -> oip.ModelInferRequest:
    return oip.ModelInferRequest.FromString(requests.take(turn)[1])


async def test_without_files_tlserve_is_sent_different_jpegs(running: Running) -> None:
    requests = await prepared(running.address, Question((MODEL,), batch=2, version="1"))
    request = read(requests, 0)
    assert (request.model_name, request.model_version) == (MODEL, "1")
    images = read_images(request)
    assert len(images) == 2
    for data in images:
        with Image.open(io.BytesIO(bytes(data))) as image:
            assert (image.format, image.size) == ("JPEG", (500, 333))
    assert len({requests.take(turn)[1] for turn in range(16)}) == 8
    assert requests.description == "input 'image': made-up JPEGs of 500x333, 39 KB each"


def test_made_up_pictures_are_the_same_each_time_and_differ() -> None:
    assert made_up_picture(3) == made_up_picture(3) != made_up_picture(4)
    assert 20_000 < len(made_up_picture(3)) < 80_000


async def test_pixels_have_the_models_own_size_or_the_one_given(running: Running) -> None:
    own = await prepared(running.address, Question((MODEL,), input_name="pixels", batch=2))
    assert np.asarray(read_images(read(own, 0))).shape == (2, 8, 8, 3)
    given = await prepared(running.address, Question((MODEL,), input_name="pixels", size=(5, 7)))
    assert np.asarray(read_images(read(given, 0))).shape == (1, 5, 7, 3)


async def test_files_are_sent_as_they_are_and_fill_the_last_batch(running: Running, tmp_path: Path) -> None:
    files = []
    for colour in ("red", "green", "blue"):
        files.append(tmp_path / f"{colour}.png")
        files[-1].write_bytes(picture(colour))
    requests = await prepared(running.address, Question((MODEL,), tuple(files), batch=2))
    sent = [read_images(read(requests, turn)) for turn in range(3)]
    assert sent[0] == [picture("red"), picture("green")]
    assert sent[1] == [picture("blue"), picture("red")]
    assert sent[2] == sent[0]


async def test_models_take_turns_and_see_all_images(other: OtherServer) -> None:
    other.inputs = [Declared(name="f", datatype="BYTES", shape=[-1, 1])]
    requests = await prepared(other.address, Question(("a", "b")))
    sent = [read(requests, turn) for turn in range(32)]
    assert [one.model_name for one in sent[:4]] == ["a", "b", "a", "b"]
    assert list(sent[0].inputs[0].shape) == [1, 1]
    assert sent[0].raw_input_contents == sent[1].raw_input_contents != sent[2].raw_input_contents
    assert len({split_bytes(one.raw_input_contents[0], 1)[0] for one in sent}) == 16


async def test_another_server_is_given_what_its_model_declares(other: OtherServer, tmp_path: Path) -> None:
    red = tmp_path / "red.png"
    red.write_bytes(picture("red"))
    other.inputs = [Declared(name="data", datatype="FP32", shape=[-1, 3, -1, -1])]
    requests = await prepared(other.address, Question(("net",), (red,), size=(4, 6), batch=2))
    result = await asyncio.to_thread(
        measure, LoadSettings(other.address, clients=1, seconds=0.2, warm_up_seconds=0), requests
    )
    assert result.answers == len(other.asked) > 0
    assert [(one.model, one.version) for one in result.versions] == [("net", "")]
    (tensor,) = other.asked[0].inputs
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("data", "FP32", [2, 3, 4, 6])
    rows = np.frombuffer(other.asked[0].raw_input_contents[0], np.float32).reshape(2, 3, 4, 6)
    assert rows[:, 0].min() == 1
    assert rows[:, 1:].max() == 0


async def test_a_size_that_no_server_tells_is_224(other: OtherServer) -> None:
    other.inputs = [Declared(name="data", datatype="UINT8", shape=[-1, -1, -1, 3])]
    requests = await prepared(other.address, Question(("net",)))
    assert list(read(requests, 0).inputs[0].shape) == [1, 224, 224, 3]


@pytest.mark.parametrize(
    ("shape", "datatype", "says"),
    [
        ([8, 224, 224, 3], "UINT8", "give --batch 8"),
        ([-1, -1], "FP32", "cannot tell"),
        ([-1, 10], "FP8", "cannot be made"),
    ],
)
async def test_inputs_that_cannot_be_made_are_refused(
    other: OtherServer, shape: list[int], datatype: str, says: str
) -> None:
    other.inputs = [Declared(name="data", datatype=datatype, shape=shape)]
    with pytest.raises(BadInput, match=says):
        await prepared(other.address, Question(("net",)))


async def test_files_that_are_no_images_cannot_become_pixels(running: Running, tmp_path: Path) -> None:
    notes = tmp_path / "notes.png"
    notes.write_text("no image")
    with pytest.raises(BadInput, match=r"notes\.png is no image"):
        await prepared(running.address, Question((MODEL,), (notes,), input_name="pixels"))


@pytest.mark.parametrize(
    ("inputs", "name", "chosen"),
    [
        ([FILES, NUMBERS], "", "f"),
        ([FILES, NUMBERS], "image", "f"),
        ([FILES, NUMBERS], "pixels", "n"),
        ([FILES, NUMBERS], "n", "n"),
        ([NUMBERS], "", "n"),
    ],
)
def test_the_input_is_chosen_by_name_or_kind(inputs: list[Declared], name: str, chosen: str) -> None:
    assert chosen_input(inputs, name, "m").name == chosen


@pytest.mark.parametrize(
    ("inputs", "name", "says"),
    [
        ([], "", "tells no inputs"),
        ([NUMBERS], "image", "no input 'image'"),
        ([FILES], "g", "it has f"),
        ([NUMBERS, Declared(name="k", datatype="INT8")], "", "with --input"),
    ],
)
def test_an_input_that_cannot_be_chosen_is_told(inputs: list[Declared], name: str, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        chosen_input(inputs, name, "m")


def test_questions_without_a_model_are_refused() -> None:
    for models in ((), ("a", "")):
        with pytest.raises(SettingsError):
            Question(models)
