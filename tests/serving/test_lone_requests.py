"""A request that has the machine to itself is answered on all cores, with the same numbers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serving.support_serving import CPU, Stage, ask, busy_executors, go_live, some_pixels, until
from tlserve.core.precision import Precision
from tlserve.runtime import BackboneSession, read_build_spec, reference_pixels
from tlserve.serving import InferencePool
from tlserve.serving.queue import CALM_SECONDS

TWO_CORES: dict[str, Any] = {"executors": 2, "threads": 1, "wide_threads": 2}
ALWAYS: dict[str, Any] = {**TWO_CORES, "wide_share": 1e9}
"""A tiny graph gains nothing from a second thread; these settings keep the wide session all the same."""


def has_wide(pool: InferencePool) -> bool:
    resident = pool.served("pets").build.resident
    return resident is not None and resident.wide is not None


async def one_after_the_other(pool: InferencePool, n: int = 12) -> None:
    await asyncio.sleep(1.5 * CALM_SECONDS)
    for seed in range(n):
        await ask(pool, some_pixels(1, seed=seed))


async def test_lone_requests_bring_a_session_on_all_cores_that_gives_the_same_answers(stage: Stage) -> None:
    version = stage.version()
    async with stage.pool(**ALWAYS) as pool:
        await go_live(pool, version)
        before = pool.totals().resident_bytes
        await one_after_the_other(pool)
        await until(lambda: has_wide(pool))
        for seed in range(20):
            pixels = some_pixels(1, seed=seed)
            stage.check(await ask(pool, pixels), version, pixels)
        assert pool.totals().resident_bytes > before


async def test_requests_that_come_together_bring_no_second_session(stage: Stage) -> None:
    async with stage.pool(**ALWAYS) as pool:
        await go_live(pool, stage.version())
        for _ in range(20):
            async with busy_executors(pool):
                pass
        assert not has_wide(pool)


async def test_a_session_that_is_not_faster_is_dropped(stage: Stage) -> None:
    version, pixels = stage.version(), some_pixels(1)
    async with stage.pool(**{**TWO_CORES, "wide_share": 0.0}) as pool:
        await go_live(pool, version)
        await one_after_the_other(pool, 70)
        stage.check(await ask(pool, pixels), version, pixels)
        assert not has_wide(pool)


@pytest.mark.parametrize(
    "settings",
    [
        {"executors": 1, "threads": 2, "wide_threads": 2},
        {"executors": 1, "threads": 1, "wide_threads": 1},
        {**TWO_CORES, "devices": 2},
    ],
)
async def test_where_there_is_nothing_to_gain_there_is_no_second_session(
    stage: Stage, settings: dict[str, Any]
) -> None:
    async with stage.pool(**{"wide_share": 1e9, **settings}) as pool:
        await go_live(pool, stage.version())
        await one_after_the_other(pool)
        assert not has_wide(pool)


async def test_both_sessions_leave_with_their_build(stage: Stage) -> None:
    one = stage.version(number=1, build=0)
    async with stage.pool(**ALWAYS, idle_seconds=0.02) as pool:
        await go_live(pool, one)
        await one_after_the_other(pool)
        await until(lambda: has_wide(pool))
        resident = pool.served("pets").build.resident
        await go_live(pool, stage.version(number=2, build=1))
        await until(lambda: pool.totals().builds_open == 1)
        assert resident is not None
        await until(lambda: resident.wide is None and resident.sessions == ())


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT8])
def test_rows_depend_neither_on_threads_nor_on_neighbours_in_the_batch(
    mobilenet: dict[Precision, Path], precision: Precision
) -> None:
    """To 1e-5 of what is typical in a row; measured, both precisions agree to the last bit."""
    build = mobilenet[precision]
    pixels = reference_pixels(read_build_spec(build).image)[:4]
    narrow = BackboneSession.open(build, CPU, threads=1)
    wide = BackboneSession.open(build, CPU, threads=2, spin=True, check=False)
    rows = narrow.rows(pixels)
    scale = float(np.sqrt(np.mean(np.square(rows))))
    np.testing.assert_allclose(wide.rows(pixels), rows, rtol=0, atol=1e-5 * scale)
    for session in (narrow, wide):
        alone = np.concatenate([session.rows(one[None]) for one in pixels])
        np.testing.assert_allclose(alone, rows, rtol=0, atol=1e-5 * scale)
