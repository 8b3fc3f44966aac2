"""What is counted, per version and over all."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.serving.support_serving import Stage, ask, busy_executors, go_live, png, some_pixels, until
from tlserve.core.errors import BadImage, UnknownVersion
from tlserve.serving import PoolSettings


async def test_requests_images_and_batches_are_counted_per_version(stage: Stage) -> None:
    async with stage.pool(executors=1) as pool:
        await go_live(pool, stage.version(number=1))
        before = time.time_ns() // 1_000_000
        await ask(pool, some_pixels(3))
        await ask(pool, [png(some_pixels(1)[0])])
        with pytest.raises(BadImage):
            await ask(pool, [b"no image"])
        await go_live(pool, stage.version(number=2))
        await ask(pool, some_pixels(2))

        (one,) = pool.statistics("pets", "1")
        assert (one.model, one.version) == ("pets", 1)
        assert one.inference_count == 4
        assert one.execution_count == 2
        assert (one.success.count, one.fail.count) == (2, 1)
        assert one.last_inference_ms >= before
        stages = (one.queue, one.compute_input, one.compute_infer, one.compute_output)
        assert all(stage.count == 2 and stage.total_ns > 0 for stage in stages)
        assert sum(stage.total_ns for stage in stages) <= one.success.total_ns
        assert [line.version for line in pool.statistics("pets")] == [1, 2]
        assert [line.version for line in pool.statistics()] == [1, 2]
        with pytest.raises(UnknownVersion):
            pool.statistics("pets", "7")


async def test_totals_tell_the_batch_sizes_and_what_waits(stage: Stage) -> None:
    async with stage.pool(executors=1) as pool:
        await go_live(pool, stage.version())
        async with busy_executors(pool):
            waiting = [asyncio.create_task(ask(pool, some_pixels(2))) for _ in range(3)]
            await until(lambda: pool.totals().waiting_rows == 6)
            assert pool.totals().requests_open == 4
        await asyncio.gather(*waiting)
        totals = pool.totals()
        assert (totals.requests, totals.images) == (4, 7)
        assert (totals.batches, totals.batch_rows) == (2, 7)
        assert totals.waiting_rows == totals.requests_open == 0


def test_the_machine_is_divided_by_the_rule() -> None:
    def of(cores: int) -> tuple[int, int, int]:
        settings = PoolSettings().resolved(cuda=False, cores=cores)
        return settings.executors, settings.threads, settings.wide_threads

    assert of(1) == (1, 1, 1)
    assert of(2) == (2, 1, 2)
    assert of(6) == (6, 1, 6)
    assert of(8) == (4, 2, 8)
    assert of(10) == (5, 2, 10)
    assert of(16) == (4, 4, 16)
    assert PoolSettings().resolved(cuda=True, cores=16).executors == 2
    assert PoolSettings(executors=1, threads=2).resolved(cuda=False, cores=8).threads == 2
    assert PoolSettings(threads=2).resolved(cuda=False, cores=2).executors == 1
