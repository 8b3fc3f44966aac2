"""The load generator against a real server: what it counts, when it sends, and from when latency counts."""

from __future__ import annotations

import asyncio

import pytest

from tests.client.conftest import Running
from tests.rpc.colours import MODEL
from tlserve.client.load import LoadResult, LoadSettings, Question, Requests, measure, prepare
from tlserve.client.load_requests import infer_tail
from tlserve.core.errors import NotFound, NotReady, OperatorError, Unavailable
from tlserve.rpc._gen import inference_pb2 as oip

SMALL = infer_tail("pixels", "UINT8", (1, 2, 2, 3), bytes(12))


def requests_for(*models: str, batch: int = 1) -> Requests:
    heads = tuple(oip.ModelInferRequest(model_name=model).SerializeToString() for model in models)
    return Requests(models, heads, ((SMALL,),) * len(models), batch)


async def measured(running: Running, requests: Requests | None = None, **settings: float) -> LoadResult:
    plan = LoadSettings(running.address, **{"seconds": 0.5, "warm_up_seconds": 0.0, **settings})  # type: ignore[arg-type]
    return await asyncio.to_thread(measure, plan, requests or requests_for(MODEL))


async def test_a_closed_loop_counts_every_answer_once(running: Running) -> None:
    result = await measured(running, clients=4)
    assert result.answers == running.backend.answered_images > 10
    assert result.n_errors == result.unanswered == 0
    # Those in work at the end are answered after it, and count as latencies alone.
    in_time = result.requests_per_second * result.seconds
    assert result.answers - 4 <= round(in_time) <= result.answers
    assert [(one.model, one.version, one.answers) for one in result.versions] == [
        (MODEL, "2", result.answers)
    ]
    at = result.latency_ms
    assert at is not None
    assert 0 < at.p50 <= at.p90 <= at.p99 <= at.p99_9 <= at.max


async def test_a_closed_loop_asks_with_as_many_as_it_has_clients(running: Running) -> None:
    running.backend.gate.clear()
    run = asyncio.create_task(measured(running, clients=7, processes=2))
    await running.backend.until(lambda backend: backend.working == 7)
    running.backend.gate.set()
    result = await run
    assert len(result.cpu_share) == 2
    assert result.answers == running.backend.answered_images


async def test_the_warm_up_is_not_counted(running: Running) -> None:
    result = await measured(running, clients=2, warm_up_seconds=0.5)
    assert 0 < result.answers < running.backend.answered_images
    assert result.seconds == pytest.approx(0.5)


async def test_images_are_requests_times_their_batch(running: Running) -> None:
    requests = await asyncio.to_thread(prepare, running.address, Question((MODEL,), batch=3))
    result = await measured(running, requests, clients=1)
    assert running.backend.answered_images == 3 * result.answers
    assert result.images_per_second == pytest.approx(3 * result.requests_per_second)


async def test_an_open_loop_keeps_its_plan_whatever_the_answers_do(running: Running) -> None:
    quick = await measured(running, rate=100.0, seconds=1.0)
    running.backend.gate.clear()
    run = asyncio.create_task(measured(running, rate=100.0, seconds=1.0))
    assert quick.sending is not None
    planned = quick.sending.planned
    assert 60 < planned < 140
    await running.backend.until(lambda backend: backend.working == planned)
    running.backend.gate.set()
    stalled = await run
    assert stalled.sending is not None
    assert stalled.sending.planned == stalled.answers == planned


async def test_an_open_loop_counts_latency_from_the_planned_time(running: Running) -> None:
    running.backend.gate.clear()
    run = asyncio.create_task(measured(running, rate=50.0, seconds=1.0))
    await running.backend.until(lambda backend: backend.working >= 30)
    running.backend.gate.set()
    result = await run
    assert result.latency_ms is not None
    # A stall of half a second or more is seen by all that were planned in it, the first of them most.
    assert result.latency_ms.max > 300
    assert result.latency_ms.p50 > 20
    assert result.latency_ms.mean > 100


async def test_what_cannot_be_sent_is_told(running: Running) -> None:
    running.backend.gate.clear()
    run = asyncio.create_task(measured(running, rate=50.0, max_waiting=5, timeout_seconds=1.0))
    result = await run
    assert result.sending is not None
    assert result.sending.unsent == result.sending.planned - 5
    assert running.backend.answered_images == 0
    assert [(one.status, one.count) for one in result.errors] == [("DEADLINE_EXCEEDED", 5)]
    assert result.latency_ms is None


async def test_errors_are_counted_by_status_with_what_was_said(running: Running) -> None:
    running.backend.queue_rows = 0
    result = await measured(running, requests_for(MODEL, "nobody"), clients=2)
    assert result.answers == 0
    said = {error.status: error for error in result.errors}
    assert set(said) == {"RESOURCE_EXHAUSTED", "NOT_FOUND"}
    assert "queue is full" in said["RESOURCE_EXHAUSTED"].sample
    assert "unknown model 'nobody'" in said["NOT_FOUND"].sample
    assert abs(said["NOT_FOUND"].count - said["RESOURCE_EXHAUSTED"].count) <= 2


async def test_a_server_that_goes_away_is_an_error_of_each_request(running: Running) -> None:
    run = asyncio.create_task(measured(running, clients=2, seconds=1.0))
    await running.backend.until(lambda backend: backend.answered_images > 10)
    await running.server.stop(grace_seconds=0)
    result = await run
    assert result.answers > 0
    assert "UNAVAILABLE" in {error.status for error in result.errors}


async def test_every_version_that_answered_is_counted(running: Running) -> None:
    run = asyncio.create_task(measured(running, clients=2, seconds=1.0))
    await running.backend.until(lambda backend: backend.answered_images > 10)
    await running.backend.promote(MODEL, "1")
    result = await run
    assert [one.version for one in result.versions] == ["1", "2"]
    assert sum(one.answers for one in result.versions) == result.answers


async def test_unready_models_are_told_before_anything_is_sent(running: Running) -> None:
    with pytest.raises(NotFound, match="unknown model 'nobody'"):
        await asyncio.to_thread(prepare, running.address, Question((MODEL, "nobody")))
    with pytest.raises(NotReady, match="not trained"):
        await asyncio.to_thread(prepare, running.address, Question(("empty",)))
    with pytest.raises(Unavailable, match="no tlserve at"):
        await asyncio.to_thread(prepare, "127.0.0.1:1", Question((MODEL,)))


async def test_a_process_of_the_generator_that_fails_is_no_result(running: Running) -> None:
    with pytest.raises(OperatorError, match="a process of the load generator ended with 1"):
        await measured(running, Requests((), (), (), 1), clients=2, processes=2)
