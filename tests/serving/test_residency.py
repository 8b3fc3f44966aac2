"""Backbones come into memory when they are needed and leave when others are; no lease ever notices."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.serving.support_serving import HeldPixels, Stage, ask, go_live, some_pixels, until
from tlserve.core.errors import BackboneCold, DeadlinePassed, NotLoaded, Unavailable
from tlserve.runtime import GRAPH_FILE
from tlserve.serving import InferencePool, ServableVersion, ServedVersion

PIXELS = some_pixels(1)
MODELS = ("ants", "bees", "cats", "dogs")


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage.make(tmp_path, n_builds=4)


async def start_up(pool: InferencePool, stage: Stage, n_models: int = 4) -> list[ServableVersion]:
    """One model on each build, as a daemon finds them on disk."""
    versions = [stage.version(model, build=i) for i, model in enumerate(MODELS[:n_models])]
    for version in versions:
        await pool.swap(await pool.load(version, only_if_room=True))
    return versions


async def test_models_beyond_the_limit_start_cold_and_are_loaded_by_their_first_request(stage: Stage) -> None:
    async with stage.pool(max_backbones=2) as pool:
        versions = await start_up(pool, stage)
        assert pool.totals().builds_open == 2
        assert pool.models() == MODELS
        assert all(pool.ready(model) for model in MODELS)
        for version in versions:
            stage.check(await ask(pool, PIXELS, version.model), version, PIXELS)
            assert pool.totals().builds_open <= 2
        totals = pool.totals()
        assert (totals.loads, totals.evictions, totals.cold_waits) == (4, 2, 2)
        assert totals.resident_bytes > 0


async def test_facts_of_a_cold_model_are_known_without_loading_it(stage: Stage) -> None:
    async with stage.pool(max_backbones=1) as pool:
        versions = await start_up(pool, stage, 2)
        async with pool.facts("bees") as served:
            assert (served.image.height, served.labels) == (32, versions[1].head.labels)
        assert pool.totals().loads == 1


async def test_the_least_recently_leased_backbone_leaves(stage: Stage) -> None:
    async with stage.pool(max_backbones=2) as pool:
        await start_up(pool, stage, 3)
        for model in ("ants", "bees", "ants", "cats"):
            await ask(pool, PIXELS, model)
        loads = pool.totals().loads
        await ask(pool, PIXELS, "ants")
        assert pool.totals().loads == loads
        await ask(pool, PIXELS, "bees")
        assert pool.totals().loads == loads + 1


async def test_what_is_leased_stays_and_who_waits_for_its_place_hears_why(stage: Stage) -> None:
    async with stage.pool(max_backbones=1, load_patience_seconds=0.05) as pool:
        ants, bees = await start_up(pool, stage, 2)
        async with pool.lease("ants") as lease:
            with pytest.raises(BackboneCold, match="the one backbone that max_backbones allows is answering"):
                await ask(pool, PIXELS, "bees")
            stage.check(await pool.predict(lease, PIXELS), ants, PIXELS)
        await until(lambda: pool.totals().loads == 2)
        stage.check(await ask(pool, PIXELS, "bees"), bees, PIXELS)
        assert pool.totals().cold_waits == 1


async def test_a_place_that_becomes_free_goes_to_who_waited_for_it(stage: Stage) -> None:
    asking = True

    async def never_pause() -> None:
        while asking:
            await ask(pool, PIXELS, "ants")

    async with stage.pool(max_backbones=1) as pool:
        _, bees = await start_up(pool, stage, 2)
        busy = asyncio.create_task(never_pause())
        await until(lambda: pool.totals().requests > 0)
        stage.check(await ask(pool, PIXELS, "bees"), bees, PIXELS)
        asking = False
        await busy


async def test_requests_that_overlap_without_end_keep_no_other_backbone_out(stage: Stage) -> None:
    asking = True

    async def never_pause() -> None:
        while asking:
            stage.check(await ask(pool, PIXELS, "ants"), ants, PIXELS)

    async with stage.pool(max_backbones=1, load_patience_seconds=8) as pool:
        ants, bees = await start_up(pool, stage, 2)
        busy = [asyncio.create_task(never_pause()) for _ in range(4)]
        await until(lambda: pool.totals().requests > 20)
        for _ in range(2):
            stage.check(await ask(pool, PIXELS, "bees"), bees, PIXELS)
        asking = False
        await asyncio.gather(*busy)
        assert pool.totals().builds_open == 1


async def test_a_request_without_patience_is_refused_and_the_backbone_is_ready_moments_later(
    stage: Stage,
) -> None:
    async with stage.pool(max_backbones=1, load_patience_seconds=0) as pool:
        _, bees = await start_up(pool, stage, 2)
        with pytest.raises(BackboneCold, match=r"the backbone 'tiny' is being loaded \(0\.\d s so far\)"):
            await ask(pool, PIXELS, "bees")
        await until(lambda: pool.totals().loads == 2)
        stage.check(await ask(pool, PIXELS, "bees"), bees, PIXELS)


async def test_a_deadline_ends_the_wait_for_a_backbone_and_leaves_nothing_held(stage: Stage) -> None:
    async with stage.pool(max_backbones=1) as pool:
        await start_up(pool, stage, 2)
        async with pool.lease("ants"):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await ask(pool, PIXELS, "bees")
            assert pool.totals().requests_open == 1
        await until(lambda: pool.totals().loads == 2)
        await ask(pool, PIXELS, "ants")
        assert pool.totals().builds_open == 1


async def test_one_load_is_shared_by_all_who_wait_for_it(stage: Stage) -> None:
    async with stage.pool(max_backbones=1) as pool:
        _, bees = await start_up(pool, stage, 2)
        pixels = [some_pixels(2, seed=i) for i in range(20)]
        answers = await asyncio.gather(*(ask(pool, one, "bees") for one in pixels))
        for answer, one in zip(answers, pixels, strict=True):
            stage.check(answer, bees, one)
        assert (pool.totals().loads, pool.totals().cold_waits) == (2, 20)


async def test_a_new_build_loads_beside_the_limit_and_the_old_one_leaves_with_its_last_lease(
    stage: Stage,
) -> None:
    one, two = stage.version(number=1, build=0), stage.version(number=2, build=1)
    async with stage.pool(max_backbones=1) as pool:
        await go_live(pool, one)
        async with pool.lease("pets") as lease:
            await go_live(pool, two)
            assert pool.totals().builds_open == 2
            stage.check(await ask(pool, PIXELS), two, PIXELS)
            stage.check(await pool.predict(lease, PIXELS), one, PIXELS)
        assert pool.totals().builds_open == 1
        assert pool.totals().cold_waits == 0
        stage.check(await ask(pool, PIXELS), two, PIXELS)


async def test_what_goes_live_does_not_leave_for_who_waits_while_the_one_before_still_runs(
    stage: Stage,
) -> None:
    held = HeldPixels.of(PIXELS)
    async with stage.pool(max_backbones=1) as pool:
        _, bees = await start_up(pool, stage, 2)
        running = asyncio.create_task(ask(pool, held, "ants"))
        await until(held.reached.is_set)
        waiting = asyncio.create_task(ask(pool, PIXELS, "bees"))
        await until(lambda: pool.totals().cold_waits == 1)
        two = stage.version("ants", 2, build=2)
        await go_live(pool, two)
        stage.check(await ask(pool, PIXELS, "ants"), two, PIXELS)
        held.gate.set()
        stage.check(await waiting, bees, PIXELS)
        assert (await running).version == 1
        assert pool.totals().builds_open == 1


async def test_what_was_loaded_beside_the_limit_and_discarded_leaves_again(stage: Stage) -> None:
    async with stage.pool(max_backbones=1) as pool:
        await go_live(pool, stage.version(number=1, build=0))
        served = await pool.load(stage.version(number=2, build=1))
        assert pool.totals().builds_open == 2
        pool.discard(served)
        assert pool.totals().builds_open == 1
        await ask(pool, PIXELS)
        assert pool.totals().loads == 2


async def test_a_load_beside_the_limit_that_nobody_waits_for_any_more_counts_like_any_other(
    stage: Stage,
) -> None:
    async with stage.pool(max_backbones=1) as pool:
        await start_up(pool, stage, 2)
        await until(lambda: not loads_run())
        loading = asyncio.create_task(pool.load(stage.version("bees", 2, build=1)))
        await until(lambda: loads_run() or pool.totals().loads == 2)
        loading.cancel()
        (outcome,) = await asyncio.gather(loading, return_exceptions=True)
        if isinstance(outcome, ServedVersion):
            pool.discard(outcome)  # it was quicker than we
        await until(lambda: pool.totals().loads == 2 and pool.totals().builds_open == 1)
        assert pool.versions("bees") == (1,)


async def test_a_load_beside_the_limit_that_only_a_request_still_waits_for_counts_like_any_other(
    stage: Stage,
) -> None:
    async with stage.pool(max_backbones=1) as pool:
        _, bees = await start_up(pool, stage, 2)
        await until(lambda: not loads_run())
        async with pool.lease("ants"):
            asking = asyncio.create_task(ask(pool, PIXELS, "bees"))
            await until(lambda: pool.totals().cold_waits == 1)
            loading = asyncio.create_task(pool.load(stage.version("bees", 2, build=1)))
            await until(lambda: loads_run() or pool.totals().loads == 2)
            loading.cancel()
            (outcome,) = await asyncio.gather(loading, return_exceptions=True)
            if isinstance(outcome, ServedVersion):
                pool.discard(outcome)  # it was quicker than we
            stage.check(await asking, bees, PIXELS)
        assert (pool.totals().loads, pool.totals().builds_open) == (2, 1)


async def test_without_limits_a_backbone_leaves_once_no_live_version_needs_it_and_returns_on_demand(
    stage: Stage,
) -> None:
    one, two = stage.version(number=1, build=0), stage.version(number=2, build=1)
    async with stage.pool(idle_seconds=0.05) as pool:
        await go_live(pool, one)
        await go_live(pool, two)
        await until(lambda: pool.totals().builds_open == 1)
        assert pool.versions("pets") == (1, 2)
        stage.check(await ask(pool, PIXELS, version="previous"), one, PIXELS)
        await until(lambda: pool.totals().builds_open == 1)
        await go_live(pool, one)
        stage.check(await ask(pool, PIXELS), one, PIXELS)
        await until(lambda: pool.totals().builds_open == 1)
        stage.check(await ask(pool, PIXELS), one, PIXELS)
        assert pool.totals().loads == 4


async def test_a_leased_backbone_is_not_idle(stage: Stage) -> None:
    one = stage.version(number=1, build=0)
    async with stage.pool(idle_seconds=0.02) as pool:
        await go_live(pool, one)
        async with pool.lease("pets") as lease:
            await go_live(pool, stage.version(number=2, build=1))
            await asyncio.sleep(0.1)
            assert pool.totals().builds_open == 2
            stage.check(await pool.predict(lease, PIXELS), one, PIXELS)
        await until(lambda: pool.totals().builds_open == 1)


async def test_a_failed_load_is_told_to_all_leaves_nothing_and_rests_before_the_next(stage: Stage) -> None:
    graph = stage.folder / stage.builds[1] / GRAPH_FILE
    async with stage.pool(max_backbones=1) as pool:
        _, bees = await start_up(pool, stage, 2)
        whole = graph.read_bytes()
        graph.write_bytes(b"half a fi")
        refused = await asyncio.gather(*(ask(pool, PIXELS, "bees") for _ in range(8)), return_exceptions=True)
        assert all(isinstance(error, NotLoaded) and "does not load" in str(error) for error in refused)
        assert (pool.totals().load_failures, pool.totals().builds_open) == (1, 0)
        await until(lambda: not loads_run())
        for _ in range(20):
            with pytest.raises(Unavailable, match=r"does not load.*the next try is due in \d\.\d s"):
                await ask(pool, PIXELS, "bees")
        assert not pool.ready("bees")
        assert pool.totals().load_failures == 1
        graph.write_bytes(whole)
        await until(lambda: pool.ready("bees"))
        stage.check(await ask(pool, PIXELS, "bees"), bees, PIXELS)


async def test_a_person_who_makes_a_version_live_does_not_wait_for_a_failed_load_to_rest(
    stage: Stage,
) -> None:
    graph = stage.folder / stage.builds[0] / GRAPH_FILE
    whole, version = graph.read_bytes(), stage.version()
    graph.write_bytes(b"half a fi")
    async with stage.pool() as pool:
        with pytest.raises(NotLoaded):
            await pool.load(version)
        graph.write_bytes(whole)
        await go_live(pool, version)
        stage.check(await ask(pool, PIXELS), version, PIXELS)


async def test_under_a_storm_of_loads_every_answer_is_right_and_the_limit_holds(stage: Stage) -> None:
    most = 0

    async def client(seed: int) -> None:
        nonlocal most
        draw = random.Random(seed)
        for i in range(25):
            version = draw.choice(versions)
            pixels = some_pixels(draw.randint(1, 4), seed=100 * seed + i)
            stage.check(await ask(pool, pixels, version.model), version, pixels)
            most = max(most, pool.totals().builds_open)

    async with stage.pool(max_backbones=2, load_patience_seconds=60) as pool:
        versions = await start_up(pool, stage)
        await asyncio.gather(*(client(seed) for seed in range(6)))
        totals = pool.totals()
        assert (totals.failures, most) == ({}, 2)
        assert totals.evictions > 10
        assert totals.loads - totals.evictions == totals.builds_open


async def test_a_storm_of_loads_swaps_and_cancelled_requests_harms_no_answer(stage: Stage) -> None:
    versions = {
        (model, number): stage.version(
            model, number, build=(i + number) % 4, labels=(f"{model}{number}", "b")
        )
        for i, model in enumerate(MODELS)
        for number in (1, 2)
    }
    swapping = True

    async def swap() -> None:
        draw = random.Random(7)
        while swapping:
            await go_live(pool, versions[draw.choice(MODELS), draw.choice((1, 2))])
            await asyncio.sleep(0.002)

    async def client(seed: int) -> None:
        draw = random.Random(seed)
        for i in range(25):
            pixels = some_pixels(1, seed=100 * seed + i)
            model = draw.choice(MODELS)
            if draw.random() < 0.3:
                doomed = asyncio.create_task(ask(pool, pixels, model))
                await asyncio.sleep(draw.uniform(0, 0.01))
                doomed.cancel()
                await asyncio.wait([doomed])
            else:
                answer = await ask(pool, pixels, model)
                stage.check(answer, versions[model, answer.version], pixels)

    async with stage.pool(max_backbones=2, load_patience_seconds=60) as pool:
        for model in MODELS:
            await go_live(pool, versions[model, 1])
        swaps = asyncio.create_task(swap())
        await asyncio.gather(*(client(seed) for seed in range(6)))
        swapping = False
        await swaps
        assert set(pool.totals().failures) <= {"CancelledError"}
        await until(lambda: pool.totals().builds_open <= 2)
        assert pool.totals().requests_open == pool.totals().waiting_rows == 0


async def test_closing_answers_leases_that_wait_for_a_place(stage: Stage) -> None:
    held = HeldPixels.of(PIXELS)
    async with stage.pool(max_backbones=1, executors=1) as pool:
        await start_up(pool, stage, 2)
        running = asyncio.create_task(ask(pool, held, "ants"))
        await until(held.reached.is_set)
        waiting = asyncio.create_task(ask(pool, PIXELS, "bees"))
        await until(lambda: pool.totals().cold_waits == 1)
        held.gate.set()
        await pool.close()
        outcomes = await asyncio.gather(running, waiting, return_exceptions=True)
        assert not any(isinstance(outcome, DeadlinePassed) for outcome in outcomes)
        assert pool.totals().builds_open == 0


async def test_a_limit_of_memory_lets_in_what_fits_and_one_that_never_does(stage: Stage) -> None:
    for digest in stage.builds:
        make_heavy(stage.folder / digest / GRAPH_FILE, megabytes=30)
    async with stage.pool(memory_limit_mb=10) as pool:
        for version in await start_up(pool, stage, 3):
            stage.check(await ask(pool, PIXELS, version.model), version, PIXELS)
            assert pool.totals().builds_open == 1
        assert pool.totals().resident_bytes >= 30e6
    async with stage.pool(memory_limit_mb=1000) as pool:
        await start_up(pool, stage, 3)
        assert pool.totals().evictions == 0
        assert pool.totals().builds_open == 3
        assert 90e6 <= pool.totals().resident_bytes <= 1000 * 2**20


async def test_a_thousand_head_swaps_load_nothing_and_leave_nothing(stage: Stage) -> None:
    versions = [stage.version(number=n, labels=tuple("abcd"[: 2 + n % 3])) for n in range(1, 6)]
    async with stage.pool() as pool:
        for version in versions:
            await go_live(pool, version)
            await ask(pool, PIXELS)
        gc.collect()
        before = count_served()
        for i in range(1000):
            version = versions[i % 5]
            await go_live(pool, version)
            if i % 50 == 0:
                stage.check(await ask(pool, PIXELS), version, PIXELS)
        await until(lambda: gc.collect() >= 0 and count_served() == 2)
        assert before == 2
        assert pool.totals().loads == 1
        assert pool.versions("pets") == (4, 5)


def loads_run() -> bool:
    return any(thread.name.startswith("tlserve-load") for thread in threading.enumerate())


def count_served() -> int:
    # Not isinstance: it would ask lazy modules for their class.
    return sum(type(thing) is ServedVersion for thing in gc.get_objects())


def make_heavy(graph: Path, *, megabytes: int) -> None:
    """Add a weight to the graph that makes it large, and changes no row by more than a rounding."""
    model = onnx.load(str(graph))
    weight = np.zeros(megabytes * 250_000, np.float32)
    weight[0] = 1e-30
    model.graph.initializer.append(numpy_helper.from_array(weight, "heavy"))
    last = model.graph.node[-1]
    rows = last.output[0]
    last.output[0] = "light"
    model.graph.node.extend(
        [
            onnx.helper.make_node("ReduceSum", ["heavy"], ["sum"], keepdims=0),
            onnx.helper.make_node("Add", ["light", "sum"], [rows]),
        ]
    )
    onnx.save(model, str(graph))
