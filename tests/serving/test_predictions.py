"""Every answer equals the one that its version gives when served alone, however requests were batched."""

from __future__ import annotations

import asyncio
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tests.serving.support_serving import Stage, ask, busy_executors, go_live, png, some_pixels, until
from tlserve.core.errors import BadImage, BadInput
from tlserve.core.head import Dense, Head
from tlserve.core.precision import Precision
from tlserve.runtime import read_build_spec
from tlserve.serving import ServableVersion


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


async def test_a_batch_of_one_request_reads_its_pixels_where_they_lie(stage: Stage) -> None:
    version = stage.version()
    sent = some_pixels(1000).tobytes()  # read-only, as they come from the network
    pixels = np.frombuffer(sent, np.uint8).reshape(1000, 32, 32, 3)
    async with stage.pool(executors=1, max_batch=1000) as pool:
        await go_live(pool, version)
        tracemalloc.start()
        try:
            answer = await ask(pool, pixels)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert most < len(sent) / 2
        stage.check(answer, version, pixels)


async def test_a_batch_holds_what_is_expected_to_run_within_the_target(stage: Stage) -> None:
    version, pixels = stage.version(), some_pixels(7)
    async with stage.pool(executors=1, batch_target_ms=1e-6) as pool:
        await go_live(pool, version)
        stage.check(await ask(pool, pixels), version, pixels)
        assert pool.totals().batch_sizes == {1: 7}
    async with stage.pool(executors=1, batch_target_ms=60_000) as pool:
        await go_live(pool, version)
        stage.check(await ask(pool, pixels), version, pixels)
        assert pool.totals().batch_sizes == {7: 1}


async def test_where_many_images_wait_a_batch_may_hold_a_quarter_of_them(stage: Stage) -> None:
    version, pixels = stage.version(), some_pixels(64)
    async with stage.pool(executors=1, batch_target_ms=1e-6) as pool:
        await go_live(pool, version)
        stage.check(await ask(pool, pixels), version, pixels)
        sizes = pool.totals().batch_sizes
        assert max(sizes) == 16
        assert sizes[1] == 7


async def test_a_mixed_batch_on_a_build_of_reduced_precision_gives_each_model_its_own_answers(
    mobilenet: dict[Precision, Path],
) -> None:
    builds = list(mobilenet.values())
    image = read_build_spec(builds[0]).image
    stage = Stage(builds[0].parent, [build.name for build in builds])
    draw = np.random.default_rng(0)
    versions = [
        ServableVersion(f"m{i}", 1, stage.builds[i % 2], Head(tuple("abc"), ("features",), (layer,)))
        for i in range(6)
        for layer in [Dense(draw.normal(0, 0.1, (1280, 3)).astype(np.float32), np.zeros(3, np.float32))]
    ]
    requests = [(versions[i % 6], some_pixels(1 + i % 3, seed=i, side=image.height)) for i in range(18)]
    async with stage.pool(executors=2) as pool:
        for version in versions:
            await go_live(pool, version)
        answers = await asyncio.gather(*(ask(pool, px, version.model) for version, px in requests))
        for (version, pixels), answer in zip(requests, answers, strict=True):
            stage.check(answer, version, pixels)
        assert pool.totals().builds_open == 2


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
