"""What is refused, what is dropped, and how the pool stops."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

from tests.serving.support_serving import (
    HeldPixels,
    Stage,
    ask,
    busy_executors,
    go_live,
    png,
    some_pixels,
    until,
)
from tlserve.core.errors import DeadlinePassed, Draining, QueueFull


async def test_a_full_queue_refuses_and_takes_again_once_there_is_room(stage: Stage) -> None:
    async with stage.pool(queue_rows=8, executors=1) as pool:
        await go_live(pool, stage.version())
        async with busy_executors(pool):
            waiting = [asyncio.create_task(ask(pool, some_pixels(4))) for _ in range(2)]
            await until(lambda: pool.totals().waiting_rows == 8)
            with pytest.raises(QueueFull) as refused:
                await ask(pool, some_pixels(1))
            assert (refused.value.waiting_rows, refused.value.limit_rows) == (8, 8)
        await asyncio.gather(*waiting)
        await ask(pool, some_pixels(8))
        assert pool.totals().failures == {"QueueFull": 1}


async def test_images_still_to_be_decoded_fill_the_queue_too(stage: Stage) -> None:
    async with stage.pool(queue_rows=4) as pool:
        await go_live(pool, stage.version())
        decoding = asyncio.create_task(ask(pool, [png(one) for one in some_pixels(4)]))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await ask(pool, some_pixels(1))
        await decoding
        assert pool.totals().waiting_rows == 0


async def test_a_deadline_in_the_past_is_answered_without_work(stage: Stage) -> None:
    async with stage.pool() as pool:
        await go_live(pool, stage.version())
        with pytest.raises(DeadlinePassed):
            await ask(pool, some_pixels(1), deadline=asyncio.get_running_loop().time() - 1)
        assert pool.totals().batches == 0


async def test_what_expires_in_the_queue_is_answered_in_time_and_never_computed(stage: Stage) -> None:
    async with stage.pool(executors=1) as pool:
        await go_live(pool, stage.version())
        async with busy_executors(pool):
            now = asyncio.get_running_loop().time()
            late = [asyncio.create_task(ask(pool, some_pixels(3), deadline=now + 0.05)) for _ in range(3)]
            kept = asyncio.create_task(ask(pool, some_pixels(2), deadline=now + 60))
            outcomes = await asyncio.gather(*late, return_exceptions=True)
            assert all(isinstance(outcome, DeadlinePassed) for outcome in outcomes)
            assert pool.totals().waiting_rows == 2
        await kept
        assert pool.totals().batch_sizes == {1: 1, 2: 1}
        assert pool.totals().failures == {"DeadlinePassed": 3}


async def test_cancelling_drops_what_waits(stage: Stage) -> None:
    async with stage.pool(executors=1) as pool:
        await go_live(pool, stage.version())
        async with busy_executors(pool):
            doomed = asyncio.create_task(ask(pool, some_pixels(30)))
            kept = asyncio.create_task(ask(pool, some_pixels(2)))
            await until(lambda: pool.totals().waiting_rows == 32)
            doomed.cancel()
            await asyncio.wait([doomed])
            assert pool.totals().waiting_rows == 2
        await kept
        assert pool.totals().batch_sizes == {1: 1, 2: 1}
        assert pool.totals().requests_open == 0


async def test_a_dropped_request_keeps_nothing_of_its_backbone_in_the_line(stage: Stage) -> None:
    async with stage.pool() as pool:
        await go_live(pool, stage.version("pets", build=0))
        await go_live(pool, stage.version("toys", build=1))
        build = weakref.ref(pool.served("toys").build)
        async with busy_executors(pool):
            dropped = asyncio.create_task(ask(pool, some_pixels(1), "toys"))
            await until(lambda: pool.totals().waiting_rows == 1)
            dropped.cancel()
            await asyncio.wait([dropped])
            del dropped
            pool.forget("toys")
            await until(lambda: not gc.collect() and build() is None)


async def test_cancelling_while_it_runs_hurts_no_neighbour_in_the_batch(stage: Stage) -> None:
    version, gated, pixels = stage.version(), HeldPixels.of(some_pixels(2)), some_pixels(3, seed=5)
    async with stage.pool(executors=1) as pool:
        await go_live(pool, version)
        async with busy_executors(pool):
            doomed = asyncio.create_task(ask(pool, gated))
            neighbour = asyncio.create_task(ask(pool, pixels))
            await until(lambda: pool.totals().waiting_rows == 5)
        await until(gated.reached.is_set)
        doomed.cancel()
        await asyncio.wait([doomed])
        gated.gate.set()
        stage.check(await neighbour, version, pixels)
        assert pool.totals().failures == {"CancelledError": 1}


async def test_a_huge_request_lets_others_of_its_build_in_between(stage: Stage) -> None:
    async with stage.pool(executors=1, max_batch=4, queue_rows=1024) as pool:
        await go_live(pool, stage.version("pets"))
        await go_live(pool, stage.version("birds"))
        async with busy_executors(pool):
            huge = asyncio.create_task(ask(pool, some_pixels(800)))
            small = asyncio.create_task(ask(pool, some_pixels(1), "birds"))
            await until(lambda: pool.totals().waiting_rows == 801)
        await small
        assert not huge.done()
        await huge


async def test_builds_take_turns(stage: Stage) -> None:
    async with stage.pool(executors=1, max_batch=4) as pool:
        await go_live(pool, stage.version("pets", build=0))
        await go_live(pool, stage.version("birds", build=1))
        async with busy_executors(pool):
            flood = [asyncio.create_task(ask(pool, some_pixels(4))) for _ in range(100)]
            await until(lambda: pool.totals().waiting_rows == 400)
            single = asyncio.create_task(ask(pool, some_pixels(1), "birds"))
            await until(lambda: pool.totals().waiting_rows == 401)
        await single
        assert sum(task.done() for task in flood) < 50
        await asyncio.gather(*flood)


async def test_draining_finishes_what_is_under_way_and_refuses_the_rest(stage: Stage) -> None:
    version, pixels = stage.version(), some_pixels(2)
    async with stage.pool(executors=1) as pool:
        await go_live(pool, version)
        async with busy_executors(pool):
            under_way = asyncio.create_task(ask(pool, pixels))
            await until(lambda: pool.totals().waiting_rows == 2)
            drained = asyncio.create_task(pool.drain(30))
            await asyncio.sleep(0)
            with pytest.raises(Draining):
                await ask(pool, pixels)
            assert not pool.ready("pets")
            assert not drained.done()
        assert await drained
        stage.check(await under_way, version, pixels)


async def test_a_drain_that_takes_too_long_says_so_and_closing_answers_the_rest(stage: Stage) -> None:
    held = HeldPixels.of(some_pixels(1))
    async with stage.pool(executors=1) as pool:
        await go_live(pool, stage.version())
        running = asyncio.create_task(ask(pool, held))
        await until(held.reached.is_set)
        waiting = asyncio.create_task(ask(pool, some_pixels(2)))
        await until(lambda: pool.totals().waiting_rows == 2)
        assert not await pool.drain(0.02)
        threading.Timer(0.05, held.gate.set).start()
        await pool.close()
        assert (await running).version == 1
        with pytest.raises(Draining):
            await waiting
        assert pool.totals().builds_open == 0


async def test_closing_answers_requests_that_still_decode(stage: Stage) -> None:
    async with stage.pool(decode_workers=1) as pool:
        await go_live(pool, stage.version())
        decoding = asyncio.create_task(ask(pool, [png(one) for one in some_pixels(64)]))
        await asyncio.sleep(0)
        await pool.close()
        with pytest.raises(Draining):
            await decoding


async def test_closing_answers_requests_that_wait_for_a_version_to_load(stage: Stage) -> None:
    stage.version(number=1, build=1)
    async with stage.pool() as pool:
        await go_live(pool, stage.version(number=2))
        loading = asyncio.create_task(ask(pool, some_pixels(1), version="1"))
        await asyncio.sleep(0)
        await pool.close()
        with pytest.raises(Draining):
            await loading


async def test_closing_twice_and_closing_a_pool_that_never_started_is_harmless(stage: Stage) -> None:
    async with stage.pool(start=False) as pool:
        await pool.close()


async def test_closing_ends_the_threads(stage: Stage) -> None:
    async with stage.pool(executors=2) as pool:
        await go_live(pool, stage.version())
        await ask(pool, some_pixels(4))
        assert any(thread.name.startswith("tlserve-") for thread in threading.enumerate())
    await until(lambda: not any(thread.name.startswith("tlserve-") for thread in threading.enumerate()))
