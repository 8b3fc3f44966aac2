"""The Open Inference Protocol as the unmodified tritonclient sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pytest

from tests.rpc.colours import BLUE, GREEN, MODEL, RED, picture, pixels
from tests.rpc.conftest import Running

triton = pytest.importorskip("tritonclient.grpc")
triton_aio = pytest.importorskip("tritonclient.grpc.aio")

T = TypeVar("T")
ALL_OUTPUTS = ("label", "probabilities", "classes", "features", "novelty", "unknown")


@pytest.fixture
def sync(running: Running) -> Iterator[Any]:
    with triton.InferenceServerClient(running.address) as client:
        yield client


@pytest.fixture
async def client(running: Running) -> AsyncIterator[Any]:
    async with triton_aio.InferenceServerClient(running.address) as opened:
        yield opened


async def off_loop(call: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """A blocking call, while the server's loop (this one) goes on."""
    return await asyncio.to_thread(call, *arguments, **named)


def pixel_input(array: npt.NDArray[np.uint8]) -> Any:
    tensor = triton.InferInput("pixels", list(array.shape), "UINT8")
    tensor.set_data_from_numpy(array)
    return tensor


def image_input(*images: bytes, shape: list[int] | None = None) -> Any:
    tensor = triton.InferInput("image", shape or [len(images)], "BYTES")
    tensor.set_data_from_numpy(np.array(images, dtype=object).reshape(shape or [len(images)]))
    return tensor


async def test_pixels_are_classified(sync: Any) -> None:
    result = await off_loop(sync.infer, MODEL, [pixel_input(pixels(RED, BLUE, GREEN))])
    assert result.as_numpy("label").tolist() == [b"red", b"blue", b"green"]
    probabilities = result.as_numpy("probabilities")
    assert probabilities.shape == (3, 3)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("shape", [[2], [2, 1]])
async def test_encoded_images_are_classified(sync: Any, shape: list[int]) -> None:
    tensor = image_input(picture("red"), picture("lime", size=30), shape=shape)
    result = await off_loop(sync.infer, MODEL, [tensor])
    assert result.as_numpy("label").tolist() == [b"red", b"green"]


async def test_the_asynchronous_client_gets_the_same(client: Any) -> None:
    result = await client.infer(MODEL, [pixel_input(pixels(BLUE))])
    assert result.as_numpy("label").tolist() == [b"blue"]


async def test_the_default_outputs_are_label_and_probabilities(client: Any) -> None:
    response = (await client.infer(MODEL, [pixel_input(pixels(RED))])).get_response()
    assert [output.name for output in response.outputs] == ["label", "probabilities"]


async def test_every_output_comes_by_name_in_the_order_asked_and_as_the_metadata_says(client: Any) -> None:
    named = ("unknown", "classes", "features", "novelty", "probabilities", "label")
    wanted = [triton.InferRequestedOutput(name) for name in named]
    result = await client.infer(MODEL, [pixel_input(pixels(RED, (0, 0, 0)))], outputs=wanted)
    response = result.get_response()
    assert tuple(output.name for output in response.outputs) == named
    metadata = await client.get_model_metadata(MODEL)
    declared = {tensor.name: tensor for tensor in metadata.outputs}
    assert tuple(declared) == ALL_OUTPUTS
    for output in response.outputs:
        assert output.datatype == declared[output.name].datatype
        assert len(output.shape) == len(declared[output.name].shape)
        for size, allowed in zip(output.shape, declared[output.name].shape, strict=True):
            assert allowed in (-1, size)
        assert list(result.as_numpy(output.name).shape) == list(output.shape)
    assert result.as_numpy("classes").tolist() == [b"blue", b"green", b"red"]
    assert result.as_numpy("unknown").tolist() == [False, True]
    np.testing.assert_allclose(result.as_numpy("features")[0], [1, 0, 0])


async def test_classification_gives_score_index_label_strings(client: Any) -> None:
    wanted = [triton.InferRequestedOutput("probabilities", class_count=2)]
    result = await client.infer(MODEL, [pixel_input(pixels(RED, GREEN))], outputs=wanted)
    rows = result.as_numpy("probabilities")
    assert rows.shape == (2, 2)
    score, index, label = rows[0, 0].decode().split(":")
    assert (int(index), label) == (2, "red")
    assert float(score) > 0.9
    assert rows[1, 0].endswith(b":1:green")


async def test_classification_of_more_classes_than_there_are_gives_all(client: Any) -> None:
    wanted = [triton.InferRequestedOutput("probabilities", class_count=99)]
    result = await client.infer(MODEL, [pixel_input(pixels(RED))], outputs=wanted)
    assert result.as_numpy("probabilities").shape == (1, 3)


@pytest.mark.parametrize(
    ("asked", "answered"), [("", "2"), ("live", "2"), ("previous", "1"), ("1", "1"), ("2", "2")]
)
async def test_the_answer_names_the_one_version_that_gave_it(client: Any, asked: str, answered: str) -> None:
    result = await client.infer(MODEL, [pixel_input(pixels(RED))], model_version=asked)
    response = result.get_response()
    assert response.model_name == MODEL
    assert response.model_version == answered


async def test_the_id_is_echoed(client: Any) -> None:
    result = await client.infer(MODEL, [pixel_input(pixels(RED))], request_id="an id")
    assert result.get_response().id == "an id"


async def test_compressed_requests_are_understood(client: Any) -> None:
    result = await client.infer(MODEL, [pixel_input(pixels(RED, size=64))], compression_algorithm="gzip")
    assert result.as_numpy("label").tolist() == [b"red"]


async def test_the_timeout_parameter_ends_a_request_that_waits(running: Running, client: Any) -> None:
    running.backend.gate.clear()
    with pytest.raises(Exception, match="deadline") as caught:
        await client.infer(MODEL, [pixel_input(pixels(RED))], timeout=20_000)
    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"


async def test_the_deadline_of_the_call_ends_a_request_that_waits(running: Running, client: Any) -> None:
    running.backend.gate.clear()
    with pytest.raises(Exception, match=r"(?i)deadline") as caught:
        await client.infer(MODEL, [pixel_input(pixels(RED))], client_timeout=0.1)
    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    await running.backend.until(lambda backend: not backend.working)


async def test_a_client_that_gives_up_cancels_its_work(running: Running, client: Any) -> None:
    running.backend.gate.clear()
    call = asyncio.create_task(client.infer(MODEL, [pixel_input(pixels(RED))]))
    await running.backend.until(lambda backend: backend.working == 1)
    call.cancel()
    await running.backend.until(lambda backend: backend.cancelled == 1)


async def test_readiness_of_server_and_models(running: Running, client: Any) -> None:
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready(MODEL)
    assert await client.is_model_ready(MODEL, "1")
    for name, version in [("empty", ""), ("nobody", ""), (MODEL, "7"), (MODEL, "x"), ("../x", ""), ("", "")]:
        assert not await client.is_model_ready(name, version)
    running.server.begin_drain()
    assert not await client.is_server_ready()
    assert not await client.is_model_ready(MODEL)


async def test_server_metadata(client: Any) -> None:
    metadata = await client.get_server_metadata()
    assert metadata.name == "tlserve"
    assert "statistics" in metadata.extensions


async def test_model_metadata_names_inputs_and_versions(client: Any) -> None:
    metadata = await client.get_model_metadata(MODEL)
    assert metadata.platform == "tlserve"
    assert list(metadata.versions) == ["1", "2"]
    inputs = {tensor.name: (tensor.datatype, list(tensor.shape)) for tensor in metadata.inputs}
    assert inputs == {"image": ("BYTES", [-1]), "pixels": ("UINT8", [-1, -1, -1, 3])}


async def test_model_config_has_both_inputs_optional(client: Any) -> None:
    config = (await client.get_model_config(MODEL)).config
    assert {tensor.name: tensor.optional for tensor in config.input} == {"image": True, "pixels": True}
    assert [output.name for output in config.output] == list(ALL_OUTPUTS)
    assert config.max_batch_size == 32
    assert list(config.version_policy.specific.versions) == [1, 2]


async def test_statistics_count_images(client: Any) -> None:
    await client.infer(MODEL, [pixel_input(pixels(RED, BLUE))])
    for name in (MODEL, ""):
        (line,) = (await client.get_inference_statistics(name)).model_stats
        assert (line.name, line.version, line.inference_count) == (MODEL, "2", 2)
        assert line.inference_stats.success.count == 2


async def test_the_repository_index_tells_who_is_ready_and_why_not(client: Any) -> None:
    ready, waiting = (await client.get_model_repository_index()).models
    assert (ready.name, ready.version, ready.state) == (MODEL, "2", "READY")
    assert (waiting.name, waiting.state) == ("empty", "UNAVAILABLE")
    assert "waits for images" in waiting.reason


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.load_model(MODEL),
        lambda client: client.unload_model(MODEL),
        lambda client: client.get_system_shared_memory_status(),
        lambda client: client.register_system_shared_memory("a", "/a", 8),
        lambda client: client.unregister_cuda_shared_memory(),
        lambda client: client.get_trace_settings(),
        lambda client: client.get_log_settings(),
    ],
)
async def test_what_is_not_offered_says_unimplemented(client: Any, call: Callable[[Any], Any]) -> None:
    with pytest.raises(Exception, match="does not offer") as caught:
        await call(client)
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


async def test_a_stream_answers_in_order_and_survives_a_wrong_request(running: Running, client: Any) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for index, colour in enumerate([RED, GREEN, BLUE]):
            yield {"model_name": MODEL, "inputs": [pixel_input(pixels(colour))], "request_id": str(index)}
        yield {"model_name": "nobody", "inputs": [pixel_input(pixels(RED))], "request_id": "3"}
        yield {"model_name": MODEL, "inputs": [pixel_input(pixels(RED))], "request_id": "4"}

    answers = [answer async for answer in client.stream_infer(requests())]
    results = [result for result, error in answers if error is None]
    assert [result.get_response().id for result in results] == ["0", "1", "2", "4"]
    assert [result.as_numpy("label")[0] for result in results] == [b"red", b"green", b"blue", b"red"]
    assert "unknown model 'nobody'" in str(answers[3][1])


async def test_the_observer_is_told_of_every_call(running: Running, client: Any) -> None:
    await client.infer(MODEL, [pixel_input(pixels(RED))])
    with pytest.raises(Exception, match="unknown model"):
        await client.infer("nobody", [pixel_input(pixels(RED))])
    assert [call[:2] for call in running.calls] == [
        ("inference.GRPCInferenceService/ModelInfer", "OK"),
        ("inference.GRPCInferenceService/ModelInfer", "NOT_FOUND"),
    ]
