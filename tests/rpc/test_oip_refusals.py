"""Whatever is wrong with a request, its status blames the request and says what to change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
import numpy as np
import pytest
from grpc import aio

from tests.rpc.colours import EMPTY, MODEL, RED, picture, pixels
from tests.rpc.conftest import Running
from tlserve.rpc._gen import inference_pb2 as oip

Request = oip.ModelInferRequest
Call = Callable[[Request], "asyncio.Future[oip.ModelInferResponse]"]
INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND


@pytest.fixture
async def infer(running: Running) -> AsyncIterator[Call]:
    async with aio.insecure_channel(running.address) as channel:
        yield channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=Request.SerializeToString,
            response_deserializer=oip.ModelInferResponse.FromString,
        )


def request(model: str = MODEL, version: str = "") -> Request:
    """A request that is fine as it is: two 8 x 8 pictures."""
    made = Request(model_name=model, model_version=version)
    made.inputs.add(name="pixels", datatype="UINT8", shape=[2, 8, 8, 3])
    made.raw_input_contents.append(pixels(RED, RED).tobytes())
    return made


def image_request(*images: bytes, shape: list[int] | None = None) -> Request:
    made = Request(model_name=MODEL)
    made.inputs.add(name="image", datatype="BYTES", shape=[len(images)] if shape is None else shape)
    made.raw_input_contents.append(b"".join(len(image).to_bytes(4, "little") + image for image in images))
    return made


def typed_request(*values: int, shape: list[int]) -> Request:
    made = Request(model_name=MODEL)
    tensor = made.inputs.add(name="pixels", datatype="UINT8", shape=shape)
    tensor.contents.uint_contents.extend(values)
    return made


def changed(change: Callable[[Request], object]) -> Request:
    made = request()
    change(made)
    return made


def output(name: str, **parameters: oip.InferParameter) -> Request.InferRequestedOutputTensor:
    return Request.InferRequestedOutputTensor(name=name, parameters=parameters)


def whole(value: int) -> oip.InferParameter:
    return oip.InferParameter(int64_param=value)


def shaped(*shape: int) -> Callable[[Request], object]:
    def change(made: Request) -> None:
        made.inputs[0].shape[:] = shape

    return change


def as_datatype(datatype: str) -> Callable[[Request], object]:
    return lambda made: setattr(made.inputs[0], "datatype", datatype)


REFUSED: dict[str, tuple[Request, str]] = {
    "no input": (changed(lambda r: r.ClearField("inputs")), "exactly one"),
    "both inputs": (changed(lambda r: r.inputs.append(image_request(b"x").inputs[0])), "exactly one"),
    "the same input twice": (changed(lambda r: r.inputs.append(r.inputs[0])), "exactly one"),
    "an unknown input": (
        changed(lambda r: setattr(r.inputs[0], "name", "input_1")),
        "unknown input 'input_1'",
    ),
    "a wrong datatype": (changed(as_datatype("FP32")), "must have datatype UINT8, not 'FP32'"),
    "no datatype": (changed(as_datatype("")), "must have datatype UINT8"),
    "three dimensions": (changed(shaped(8, 8, 3)), r"\[N, H, W, 3\]"),
    "no shape": (changed(shaped()), r"\[N, H, W, 3\]"),
    "four channels": (changed(shaped(2, 8, 8, 4)), r"\[N, H, W, 3\]"),
    "channels first": (changed(shaped(2, 3, 8, 8)), r"\[N, H, W, 3\]"),
    "an empty batch": (changed(shaped(0, 8, 8, 3)), "at least 1"),
    "a negative size": (changed(shaped(-2, -8, 8, 3)), "at least 1"),
    "a shape larger than the bytes": (changed(shaped(3, 8, 8, 3)), "needs 576 bytes, but there are 384"),
    "a shape beyond all memory": (changed(shaped(2**62, 2**62, 2**62, 3)), "bytes, but there are 384"),
    "many dimensions": (changed(shaped(*[1] * 1000)), "1000 dimensions"),
    "no contents": (changed(lambda r: r.ClearField("raw_input_contents")), "empty"),
    "two raw contents": (changed(lambda r: r.raw_input_contents.append(b"x")), "1 input, but 2"),
    "raw and typed": (
        changed(lambda r: r.inputs[0].contents.uint_contents.append(1)),
        "both in contents and in raw_input_contents",
    ),
    "typed with a value over 255": (typed_request(1, 2, 256, shape=[1, 1, 1, 3]), "256"),
    "typed with too few values": (typed_request(1, 2, shape=[1, 1, 1, 3]), "needs 3 bytes, but there are 2"),
    "shared memory in": (
        changed(lambda r: r.inputs[0].parameters["shared_memory_region"].MergeFrom(whole(1))),
        "shared memory",
    ),
    "shared memory out": (
        changed(lambda r: r.outputs.append(output("label", shared_memory_region=whole(1)))),
        "shared",
    ),
    "an image that is none": (image_request(picture("red"), b"not an image"), "not an image"),
    "an image of no bytes": (image_request(b""), "not an image"),
    "images of no number": (image_request(picture("red"), shape=[]), r"\[N\] or \[N, 1\]"),
    "images in two columns": (image_request(b"a", b"b", shape=[1, 2]), r"\[N\] or \[N, 1\]"),
    "no images": (image_request(shape=[0]), "at least 1"),
    "fewer images than said": (image_request(b"a", shape=[2]), "shape says 2, but .* holds 1"),
    "more images than said": (image_request(b"a", b"b", b"c", shape=[1]), "holds more than 1"),
    "an unknown output": (
        changed(lambda r: r.outputs.append(output("scores"))),
        "unknown output 'scores'; .*label",
    ),
    "an output twice": (changed(lambda r: r.outputs.extend([output("label"), output("label")])), "twice"),
    "classification of labels": (
        changed(lambda r: r.outputs.append(output("label", classification=whole(1)))),
        "probabilities",
    ),
    "classification of none": (
        changed(lambda r: r.outputs.append(output("probabilities", classification=whole(0)))),
        "at least 1",
    ),
    "classification by word": (
        changed(
            lambda r: r.outputs.append(
                output("probabilities", classification=oip.InferParameter(string_param="all"))
            )
        ),
        "must be an integer",
    ),
    "a negative timeout": (changed(lambda r: r.parameters["timeout"].MergeFrom(whole(-5))), "microseconds"),
    "a timeout by word": (
        changed(lambda r: r.parameters["timeout"].MergeFrom(oip.InferParameter(string_param="1s"))),
        "must be an integer",
    ),
    "no model": (request(model=""), "names no model"),
}

NAMELESS = [
    request(model="nobody"),
    request(model="../colours"),
    request(model="/etc/passwd"),
    request(model="colours/1"),
    request(model="col\0ours"),
    request(model="m" * 100_000),
    request(model="\N{SNOWMAN}"),
    request(version="7"),
    request(version="-1"),
    request(version="latest"),
    request(version="../1"),
    request(version="9" * 5000),
    request(version="\N{ARABIC-INDIC DIGIT ONE}"),
]


@pytest.mark.parametrize("name", REFUSED)
async def test_a_wrong_request_is_an_invalid_argument(infer: Call, name: str) -> None:
    wrong, says = REFUSED[name]
    with pytest.raises(aio.AioRpcError, match=says) as caught:
        await infer(wrong)
    assert caught.value.code() is INVALID


@pytest.mark.parametrize("wrong", NAMELESS, ids=lambda r: repr(r.model_name + ":" + r.model_version)[:30])
async def test_an_unknown_name_is_not_found(infer: Call, wrong: Request) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await infer(wrong)
    assert caught.value.code() is NOT_FOUND


@pytest.mark.parametrize("length", [1, 3, 4, 5, 8])
async def test_cut_bytes_tensors_are_refused(infer: Call, length: int) -> None:
    cut = Request(model_name=MODEL)
    cut.inputs.add(name="image", datatype="BYTES", shape=[1])
    cut.raw_input_contents.append(((1000).to_bytes(4, "little") + b"abcdef")[:length])
    with pytest.raises(aio.AioRpcError, match="past the end") as caught:
        await infer(cut)
    assert caught.value.code() is INVALID


async def test_damaged_requests_never_end_in_an_internal_error(running: Running) -> None:
    random = np.random.default_rng(1)
    good = request().SerializeToString()
    async with aio.insecure_channel(running.address) as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer", request_serializer=None, response_deserializer=None
        )
        for _ in range(200):
            raw = bytearray(good)
            for at in random.integers(0, 60, 3):
                raw[at] = random.integers(0, 256)
            try:
                await call(bytes(raw))
            except aio.AioRpcError as exc:
                assert exc.code() in {INVALID, NOT_FOUND}, (exc.details(), raw)


async def test_an_untrained_model_is_a_failed_precondition(infer: Call) -> None:
    with pytest.raises(aio.AioRpcError, match="not trained yet") as caught:
        await infer(request(model=EMPTY))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_full_queue_is_resource_exhausted(running: Running, infer: Call) -> None:
    running.backend.queue_rows = 1
    with pytest.raises(aio.AioRpcError, match="queue is full") as caught:
        await infer(request())
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_draining_server_is_unavailable(running: Running, infer: Call) -> None:
    running.backend.draining = True
    with pytest.raises(aio.AioRpcError, match="shutting down") as caught:
        await infer(request())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_message_over_the_limit_is_resource_exhausted(infer: Call) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await infer(image_request(b"x" * 1_100_000))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_bytes_that_are_no_message_are_refused(running: Running) -> None:
    async with aio.insecure_channel(running.address) as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer", request_serializer=None, response_deserializer=None
        )
        with pytest.raises(aio.AioRpcError, match=r"not an? inference.ModelInferRequest message") as caught:
            await call(b"\xff\xff\xff not a message")
    assert caught.value.code() is INVALID


async def test_typed_contents_are_as_good_as_raw_ones(infer: Call) -> None:
    typed = await infer(typed_request(255, 0, 0, shape=[1, 1, 1, 3]))
    images = Request(model_name=MODEL)
    images.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(
        picture("red")
    )
    encoded = await infer(images)
    assert typed.raw_output_contents[0] == encoded.raw_output_contents[0] == b"\x03\0\0\0red"
