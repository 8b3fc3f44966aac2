"""Several devices answer from one queue; each build has a session on each."""

from __future__ import annotations

import asyncio

import numpy as np

from tests.serving.support_serving import HeldPixels, Stage, ask, busy_executors, go_live, some_pixels, until


async def test_every_answer_is_right_whichever_device_gave_it(stage: Stage) -> None:
    versions = [stage.version("pets", build=0), stage.version("birds", build=1)]
    requests = [(versions[i % 2], some_pixels(1 + i % 5, seed=i)) for i in range(60)]
    async with stage.pool(devices=2, executors=1) as pool:
        for version in versions:
            await go_live(pool, version)
        answers = await asyncio.gather(*(ask(pool, px, version.model) for version, px in requests))
        for (version, pixels), answer in zip(requests, answers, strict=True):
            stage.check(answer, version, pixels)
        assert pool.totals().builds_open == 2


async def test_a_build_has_a_session_of_its_own_on_each_device(stage: Stage) -> None:
    async with stage.pool(devices=2) as pool:
        await go_live(pool, stage.version())
        resident = pool.served("pets").build.resident
        assert resident is not None
        one, other = resident.sessions
        assert one is not other
        pixels = some_pixels(2)
        np.testing.assert_array_equal(one.rows(pixels), other.rows(pixels))


async def test_a_batch_goes_to_the_device_where_less_runs(stage: Stage) -> None:
    async with stage.pool(devices=2, executors=2) as pool:
        await go_live(pool, stage.version())
        for _ in range(20):
            held = [HeldPixels.of(some_pixels(1, seed=i)) for i in range(2)]
            asked = []
            for pixels in held:
                asked.append(asyncio.create_task(ask(pool, pixels)))
                await until(pixels.reached.is_set)
            assert sorted(pixels.reader[-1] for pixels in held) == ["0", "1"]
            for pixels in held:
                pixels.gate.set()
            await asyncio.gather(*asked)


async def test_one_busy_device_leaves_the_work_to_the_other(stage: Stage) -> None:
    version, pixels = stage.version(), some_pixels(1)
    held = HeldPixels.of(some_pixels(1))
    async with stage.pool(devices=2, executors=1) as pool:
        await go_live(pool, version)
        running = asyncio.create_task(ask(pool, held))
        await until(held.reached.is_set)
        for _ in range(10):
            stage.check(await ask(pool, pixels), version, pixels)
        held.gate.set()
        await running


async def test_a_burst_is_divided_among_devices(stage: Stage) -> None:
    version, pixels = stage.version(), some_pixels(40)
    async with stage.pool(devices=2, executors=1) as pool:
        await go_live(pool, version)
        stage.check(await ask(pool, pixels), version, pixels)
        assert max(pool.totals().batch_sizes) <= 20


async def test_every_device_takes_work_again_after_all_were_busy(stage: Stage) -> None:
    version, pixels = stage.version(), some_pixels(3)
    async with stage.pool(devices=2, executors=1) as pool:
        await go_live(pool, version)
        for _ in range(5):
            async with busy_executors(pool, n_devices=2):
                waiting = [asyncio.create_task(ask(pool, pixels)) for _ in range(4)]
                await until(lambda: pool.totals().waiting_rows >= 12)
            for answer in await asyncio.gather(*waiting):
                stage.check(answer, version, pixels)
