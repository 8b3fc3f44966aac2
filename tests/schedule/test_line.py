"""Who goes next, and that nobody waits for ever."""

from __future__ import annotations

import asyncio

import pytest

from tlserve.core.messages import ExportFileJob, ExportJob
from tlserve.core.plan import Depth
from tlserve.schedule import PassRequest
from tlserve.schedule.line import MOST_OVERTAKINGS, Errand, Line


def change(model: str, noticed_at: float = 1.0) -> PassRequest:
    return PassRequest(f"job of {model}", model, noticed_at, depth=Depth.INSTANT)


@pytest.fixture
async def line() -> Line:
    return Line()


def name(waiting: PassRequest | Errand) -> str:
    return waiting.model if isinstance(waiting, PassRequest) else waiting.job.job_id


def all_of(line: Line) -> list[str]:
    found = []
    while line:
        found.append(name(line.take()))
    return found


def export(job_id: str) -> Errand:
    return Errand(ExportJob(job_id, "x", 1), asyncio.get_running_loop().create_future(), patient=True)


async def test_the_order_by_what_is_behind_a_wish(line: Line) -> None:
    line.add(PassRequest("1", "look"))
    line.add_errand(export("export"))
    line.add(PassRequest("2", "part", 1.0, goes_on=True))
    line.add(PassRequest("3", "retrain", force=True))
    line.add(change("fresh"))
    # One look is overtaken so often that it would have its turn here.
    assert all_of(line)[:MOST_OVERTAKINGS] == ["fresh", "retrain", "part", "export"]


async def test_among_equals_whoever_came_first(line: Line) -> None:
    for model in ("c", "a", "b"):
        line.add(change(model))
    line.add(change("c", 0.5))
    assert all_of(line) == ["c", "a", "b"]


async def test_a_pass_that_made_room_goes_behind_those_that_wait_and_keeps_what_it_was_to_do(
    line: Line,
) -> None:
    large = PassRequest(
        "l-2", "large", 1.0, depth=Depth.INSTANT, touched=frozenset({"a"}), interrupted=1, doubled=1
    )
    line.add(change("small"))
    line.add(PassRequest("n", "large", 5.0, depth=Depth.INSTANT, touched=frozenset({"b"})))
    line.put_back(large)
    line.add(change("another"))
    assert name(line.take()) == "small"
    assert name(line.take()) == "another"
    last = line.take()
    assert isinstance(last, PassRequest)
    assert (last.job_id, last.noticed_at, last.touched) == ("l-2", 1.0, {"a", "b"})
    assert (last.interrupted, last.doubled) == (1, 1)


async def test_whoever_waits_longest_has_a_turn_after_being_overtaken_a_few_times(line: Line) -> None:
    line.add(PassRequest("1", "look"))
    line.add_errand(export("export"))
    taken = []
    for n in range(3 * (MOST_OVERTAKINGS + 1)):
        line.add(change(f"fresh {n}"))
        line.add(change(f"fresher {n}"))
        taken.append(name(line.take()))
    assert taken.index("look") == MOST_OVERTAKINGS
    assert taken.index("export") == 2 * MOST_OVERTAKINGS + 1


async def test_errands_and_urgent_passes_take_turns_and_looks_wait_for_all_errands(line: Line) -> None:
    line.add(PassRequest("1", "look"))
    line.add(change("fresh"))
    for n in range(3):
        future = asyncio.get_running_loop().create_future()
        line.add_errand(Errand(ExportFileJob(f"errand {n}", "x", 1, ""), future))
    assert all_of(line) == ["errand 0", "fresh", "errand 1", "errand 2", "look"]
