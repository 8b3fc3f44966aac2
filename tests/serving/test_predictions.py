"""Every answer equals the one that its version gives when served alone, however requests were batched."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from tests.serving.support_serving import Stage, ask, busy_executors, go_live, png, some_pixels, until
from tlserve.core.errors import BadImage, BadInput


async def test_pixels_are_answered_as_by_the_version_alone(stage: Stage) -> None:
    version, pixels = stage.version(), some_pixels(3)
    async with stage.pool() as pool:
        await go_live(pool, version)
        stage.check(await ask(pool, pixels), version, pixels)


async def test_files_are_decoded_and_answered_in_order(stage: Stage) -> None:
    version, pixels = stage.version(), some_pixels(11)
    async with stage.pool(decode_workers=2) as pool:
        await go_live(pool, version)
        stage.check(await ask(pool, [png(one) for one in pixels]), version, pixels)


async def test_pixels_of_another_size_are_resized_as_a_file_would_be(stage: Stage) -> None:
    version, pixels = stage.version(), some_pixels(2, side=48)
    async with stage.pool() as pool:
        await go_live(pool, version)
        as_pixels = await ask(pool, pixels)
        as_files = await ask(pool, [png(one) for one in pixels])
    np.testing.assert_allclose(as_pixels.probabilities, as_files.probabilities, atol=1e-5)


async def test_requests_of_models_that_share_a_build_share_batches_and_keep_their_own_answers(
    stage: Stage,
) -> None:
    versions = [
        stage.version("pets", labels=("cat", "dog")),
        stage.version("birds", labels=("crow", "owl", "wren"), taps=("early", "features"), hidden=5),
        stage.version("trees", labels=("fir", "oak", "elm", "ash"), taps=("features", "early")),
    ]
    requests = [(versions[i % 3], some_pixels(1 + i % 4, seed=i)) for i in range(24)]
    async with stage.pool(executors=1) as pool:
        for version in versions:
            await go_live(pool, version)
        async with busy_executors(pool):
            waiting = [asyncio.create_task(ask(pool, px, version.model)) for version, px in requests]
            await until(lambda: pool.totals().waiting_rows == sum(len(px) for _, px in requests))
        for (version, pixels), answer in zip(requests, await asyncio.gather(*waiting), strict=True):
            stage.check(answer, version, pixels)
        assert pool.totals().builds_open == 1
        assert pool.totals().batch_sizes == {1: 1, 32: 1, 28: 1}


@pytest.mark.parametrize("executors", [1, 2])
async def test_models_on_different_builds_answer_side_by_side(stage: Stage, executors: int) -> None:
    versions = [stage.version("pets", build=0), stage.version("birds", build=1)]
    requests = [(versions[i % 2], some_pixels(1 + i % 3, seed=i)) for i in range(40)]
    async with stage.pool(executors=executors) as pool:
        for version in versions:
            await go_live(pool, version)
        answers = await asyncio.gather(*(ask(pool, px, version.model) for version, px in requests))
        for (version, pixels), answer in zip(requests, answers, strict=True):
            stage.check(answer, version, pixels)
        assert pool.totals().builds_open == 2


async def test_a_request_larger_than_a_batch_is_split(stage: Stage) -> None:
    version, pixels = stage.version(), some_pixels(19)
    async with stage.pool(max_batch=4, executors=1) as pool:
        await go_live(pool, version)
        stage.check(await ask(pool, pixels), version, pixels)
        assert pool.totals().batch_sizes == {4: 4, 3: 1}


async def test_rows_are_counted_not_requests(stage: Stage) -> None:
    async with stage.pool(max_batch=8, executors=1) as pool:
        await go_live(pool, stage.version())
        async with busy_executors(pool):
            waiting = [asyncio.create_task(ask(pool, some_pixels(6, seed=i))) for i in range(4)]
            await asyncio.sleep(0)
        await asyncio.gather(*waiting)
        assert pool.totals().batch_sizes == {1: 1, 8: 3}


async def test_a_burst_is_shared_among_idle_executors(stage: Stage) -> None:
    version, pixels = stage.version(), some_pixels(16)
    async with stage.pool(executors=2) as pool:
        await go_live(pool, version)
        stage.check(await ask(pool, pixels), version, pixels)
        assert max(pool.totals().batch_sizes) <= 8


async def test_padding_to_fixed_sizes_changes_no_answer(stage: Stage) -> None:
    version = stage.version()
    async with stage.pool(fixed_sizes=True, max_batch=6, executors=1) as pool:
        await go_live(pool, version)
        for n in (1, 3, 5, 6, 13):
            pixels = some_pixels(n, seed=n)
            stage.check(await ask(pool, pixels), version, pixels)


async def test_a_bad_image_is_named_and_hurts_no_other_request(stage: Stage) -> None:
    version, pixels = stage.version(), some_pixels(2)
    async with stage.pool() as pool:
        await go_live(pool, version)
        good, bad = await asyncio.gather(
            ask(pool, pixels), ask(pool, [png(pixels[0]), b"no image"]), return_exceptions=True
        )
        assert not isinstance(good, BaseException)
        stage.check(good, version, pixels)
        assert isinstance(bad, BadImage)
        assert "image 1" in str(bad)
        assert pool.totals().waiting_rows == 0


@pytest.mark.parametrize(
    "images",
    [
        [],
        np.zeros((0, 32, 32, 3), np.uint8),
        np.zeros((1, 32, 32, 3), np.float32),
        np.zeros((32, 32, 3), np.uint8),
        np.zeros((1, 3, 32, 32), np.uint8),
        np.zeros((1, 0, 32, 3), np.uint8),
    ],
)
async def test_what_is_no_image_tensor_is_refused(stage: Stage, images: object) -> None:
    async with stage.pool() as pool:
        await go_live(pool, stage.version())
        with pytest.raises(BadInput):
            await ask(pool, images)


async def test_a_request_that_can_never_fit_is_bad_input(stage: Stage) -> None:
    async with stage.pool(queue_rows=8) as pool:
        await go_live(pool, stage.version())
        with pytest.raises(BadInput, match="at most 8"):
            await ask(pool, some_pixels(9))
