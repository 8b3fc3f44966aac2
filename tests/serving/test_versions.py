"""Swapping by reference: a lease keeps its version, the last one retires it, a failed load is harmless."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from tests.serving.support_serving import HeldPixels, Stage, ask, go_live, random_head, some_pixels, until
from tlserve.core.errors import NotLoaded, UnknownModel, UnknownVersion
from tlserve.core.head import Dense
from tlserve.serving import ServableVersion

PIXELS = some_pixels(2)


async def test_a_leased_version_answers_although_another_was_swapped_in(stage: Stage) -> None:
    one = stage.version(number=1, labels=("cat", "dog"))
    two = stage.version(number=2, labels=("cat", "dog", "fox"))
    async with stage.pool() as pool:
        await go_live(pool, one)
        async with pool.lease("pets") as lease:
            await go_live(pool, two)
            stage.check(await pool.predict(lease, PIXELS), one, PIXELS)
        stage.check(await ask(pool, PIXELS), two, PIXELS)
        stage.check(await ask(pool, PIXELS, version="previous"), one, PIXELS)


async def test_under_steady_swaps_every_answer_is_pure(stage: Stage) -> None:
    versions = [
        stage.version(number=n, build=n % 2, labels=tuple(f"v{n}c{i}" for i in range(2 + n % 3)))
        for n in range(1, 13)
    ]
    pixels = some_pixels(1)
    swapping = True

    async def keep_asking() -> int:
        asked = 0
        while swapping or asked < 3:
            answer = await ask(pool, pixels)
            stage.check(answer, versions[answer.version - 1], pixels)
            asked += 1
        return asked

    async with stage.pool() as pool:
        await go_live(pool, versions[0])
        clients = [asyncio.create_task(keep_asking()) for _ in range(4)]
        for version in versions[1:]:
            await go_live(pool, version)
        swapping = False
        await asyncio.gather(*clients)
        assert pool.totals().failures == {}
        assert pool.versions("pets") == (11, 12)


async def test_an_old_version_retires_only_when_its_last_lease_ends(stage: Stage) -> None:
    async with stage.pool() as pool:
        await go_live(pool, stage.version(number=1, build=0))
        async with pool.lease("pets") as first, pool.lease("pets"):
            await go_live(pool, stage.version(number=2, build=1))
            await go_live(pool, stage.version(number=3, build=1))
            assert pool.versions("pets") == (1, 2, 3)
            assert pool.totals().builds_open == 2
            await pool.predict(first, PIXELS)
        assert pool.versions("pets") == (2, 3)
        assert first.served.retired
        assert pool.totals().builds_open == 1


async def test_a_build_stays_open_while_a_batch_of_a_cancelled_request_runs_on_it(stage: Stage) -> None:
    held = HeldPixels.of(some_pixels(1))
    async with stage.pool(executors=1) as pool:
        await go_live(pool, stage.version("pets"))
        running = asyncio.create_task(ask(pool, held))
        await until(held.reached.is_set)
        running.cancel()
        await asyncio.wait([running])
        pool.forget("pets")
        assert pool.versions("pets") == ()
        assert pool.totals().builds_open == 1
        held.gate.set()
        await until(lambda: pool.totals().builds_open == 0)


async def test_versions_of_one_build_share_its_session(stage: Stage) -> None:
    async with stage.pool() as pool:
        await go_live(pool, stage.version("pets", 1))
        await go_live(pool, stage.version("birds", 1))
        assert pool.served("pets").build is pool.served("birds").build


async def test_what_a_version_string_may_be(stage: Stage) -> None:
    async with stage.pool() as pool:
        with pytest.raises(UnknownModel):
            await ask(pool, PIXELS)
        assert not pool.ready("pets")
        await go_live(pool, stage.version(number=1))
        assert pool.ready("pets")
        assert pool.models() == ("pets",)
        for name in ("", "live", "1"):
            assert (await ask(pool, PIXELS, version=name)).version == 1
        for name in ("previous", "2", "-1", "1.0", "latest", "²", "9" * 30):
            with pytest.raises(UnknownVersion):
                await ask(pool, PIXELS, version=name)


async def test_previous_is_what_the_caller_says_it_is(stage: Stage) -> None:
    one, two, three = (stage.version(number=n) for n in (1, 2, 3))
    async with stage.pool() as pool:
        await pool.swap(await pool.load(three), previous=1)
        stage.check(await ask(pool, PIXELS, version="previous"), one, PIXELS)
        await go_live(pool, two)
        assert (await ask(pool, PIXELS, version="previous")).version == 3


async def test_rolling_back_needs_no_new_session(stage: Stage) -> None:
    one, two = stage.version(number=1, build=0), stage.version(number=2, build=1)
    async with stage.pool() as pool:
        await go_live(pool, one)
        resident = pool.served("pets").build.resident
        await go_live(pool, two)
        await go_live(pool, one)
        assert pool.served("pets").build.resident is resident
        assert (await ask(pool, PIXELS, version="previous")).version == 2


async def test_an_older_version_is_loaded_when_it_is_asked_for_and_once_only(stage: Stage) -> None:
    one = stage.version(number=1, build=1)
    async with stage.pool() as pool:
        await go_live(pool, stage.version(number=3))
        answers = await asyncio.gather(*(ask(pool, PIXELS, version="1") for _ in range(8)))
        for answer in answers:
            stage.check(answer, one, PIXELS)
        assert stage.reads == [("pets", 1)]


async def test_only_the_last_few_older_versions_stay_loaded(stage: Stage) -> None:
    for number in range(1, 10):
        stage.version(number=number, build=number % 2)
    async with stage.pool(extra_versions=2) as pool:
        await go_live(pool, stage.stored["pets", 9])
        for number in (1, 2, 3, 1):
            await ask(pool, PIXELS, version=str(number))
        await until(lambda: pool.versions("pets") == (1, 3, 9))
        assert stage.reads == [("pets", n) for n in (1, 2, 3, 1)]


async def test_asking_for_an_unknown_number_evicts_nothing(stage: Stage) -> None:
    stage.version(number=1)
    async with stage.pool(extra_versions=1) as pool:
        await go_live(pool, stage.version(number=2))
        await ask(pool, PIXELS, version="1")
        for name in ("7", "8", "9"):
            with pytest.raises(UnknownVersion):
                await ask(pool, PIXELS, version=name)
        assert pool.versions("pets") == (1, 2)


@pytest.mark.parametrize("damage", ["graph", "spec", "reference", "missing"])
async def test_a_build_that_does_not_load_leaves_the_old_version_live_and_nothing_behind(
    stage: Stage, damage: str
) -> None:
    folder = stage.folder / stage.builds[1]
    if damage == "missing":
        folder.rename(folder.with_name("gone"))
    else:
        name = {"graph": "backbone.onnx", "spec": "spec.json", "reference": "reference.npy"}[damage]
        (folder / name).write_bytes(b"half a fi")
    one = stage.version(number=1)
    async with stage.pool() as pool:
        await go_live(pool, one)
        with pytest.raises(NotLoaded, match="version 2"):
            await pool.load(stage.version(number=2, build=1))
        with pytest.raises(NotLoaded):
            await ask(pool, PIXELS, version="2")
        stage.check(await ask(pool, PIXELS), one, PIXELS)
        assert pool.versions("pets") == (1,)
        assert pool.totals().builds_open == 1


async def test_a_build_with_other_rows_than_its_reference_is_not_served(stage: Stage) -> None:
    reference = stage.folder / stage.builds[1] / "reference.npy"
    np.save(reference, np.load(reference) * 1.5)
    async with stage.pool() as pool:
        with pytest.raises(NotLoaded, match="reference rows"):
            await pool.load(stage.version(build=1))
        assert pool.totals().builds_open == 0


async def test_a_head_that_does_not_fit_its_build_is_not_served(stage: Stage) -> None:
    good = stage.version()
    plain = replace(good.head, novelty=None)
    wide = replace(plain, layers=(Dense(np.ones((17, 2), np.float32), np.ones(2, np.float32)),))
    broken = replace(plain, layers=(Dense(np.full((16, 2), np.nan, np.float32), np.ones(2, np.float32)),))
    lost = replace(random_head(0, ("a", "b")), taps=("nowhere",))
    async with stage.pool() as pool:
        for number, head in enumerate((wide, broken, lost), 1):
            with pytest.raises(NotLoaded):
                await pool.load(ServableVersion("pets", number, good.build, head))
        assert pool.versions("pets") == ()
        assert pool.totals().builds_open == 0


async def test_what_was_loaded_and_not_wanted_is_unloaded(stage: Stage) -> None:
    async with stage.pool() as pool:
        served = await pool.load(stage.version())
        assert pool.totals().builds_open == 1
        pool.discard(served)
        assert served.retired
        assert pool.totals().builds_open == 0


async def test_a_slow_load_holds_up_no_request(stage: Stage) -> None:
    one, gate = stage.version(number=1), threading.Event()
    stage.version(number=2, build=1)
    read = stage.read

    def read_slowly(model: str, number: int) -> ServableVersion:
        gate.wait(30)
        return read(model, number)

    stage.read = read_slowly  # type: ignore[method-assign]
    async with stage.pool() as pool:
        await go_live(pool, one)
        older = asyncio.create_task(ask(pool, PIXELS, version="2"))
        for _ in range(5):
            stage.check(await ask(pool, PIXELS), one, PIXELS)
        assert not older.done()
        gate.set()
        assert (await older).version == 2


async def test_loading_beside_a_live_model_slows_down_no_executor(stage: Stage) -> None:
    async with stage.pool() as pool:
        await go_live(pool, stage.version(number=1))
        await go_live(pool, stage.version(number=2, build=1))
        ours = [thread for thread in threading.enumerate() if thread.name.startswith("tlserve-executor")]
        assert len(ours) == pool.settings.executors
        for thread in ours:
            assert thread.native_id is not None
            assert os.getpriority(os.PRIO_PROCESS, thread.native_id) == os.getpriority(os.PRIO_PROCESS, 0)


async def test_a_load_that_nobody_waits_for_any_more_leaves_nothing(stage: Stage) -> None:
    async with stage.pool() as pool:
        loading = asyncio.create_task(pool.load(stage.version()))
        await asyncio.sleep(0)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        await go_live(pool, stage.version("birds"))
        await until(lambda: pool.versions("") == (1,) and pool.totals().builds_open == 1)


async def test_a_forgotten_model_is_unknown_and_its_requests_under_way_finish(stage: Stage) -> None:
    one = stage.version()
    async with stage.pool() as pool:
        await go_live(pool, one)
        async with pool.lease("pets") as lease:
            pool.forget("pets")
            stage.check(await pool.predict(lease, PIXELS), one, PIXELS)
            with pytest.raises(UnknownModel):
                await ask(pool, PIXELS)
        assert pool.versions("pets") == ()
        assert pool.totals().builds_open == 0


async def test_a_further_model_on_a_loaded_build_costs_its_head_and_little_more(stage: Stage) -> None:
    n = 200
    async with stage.pool() as pool:
        await go_live(pool, stage.version("first"))
        await ask(pool, PIXELS, "first")
        tracemalloc.start()
        try:
            for i in range(n):
                version = stage.version(f"model{i}")
                await go_live(pool, version)
                await ask(pool, PIXELS, f"model{i}")
            gc.collect()
            grown, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        (layer,) = version.head.layers
        assert isinstance(layer, Dense)
        head_bytes = layer.weight.nbytes + layer.bias.nbytes
        assert grown / n < head_bytes + 10_000
        assert (pool.totals().loads, pool.totals().builds_open) == (1, 1)
