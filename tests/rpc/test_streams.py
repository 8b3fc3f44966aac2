"""Answers of a stream keep their order, work side by side, and end when they must."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tlserve.core.errors import Draining
from tlserve.rpc.streams import Shutdown, accepted, in_order, until_set


async def numbers(n: int) -> AsyncIterator[int]:
    for number in range(n):
        yield number


async def test_answers_keep_the_order_of_the_requests() -> None:
    gates = [asyncio.Event() for _ in range(4)]

    async def answer(number: int) -> int:
        if number + 1 < len(gates):
            await gates[number].wait()  # the later one, which is done first, lets the earlier one go
        if number:
            gates[number - 1].set()
        return number

    assert [item async for item in in_order(numbers(4), answer, ahead=4)] == [0, 1, 2, 3]


async def test_no_more_than_so_many_are_in_work() -> None:
    working, most = 0, 0

    async def answer(number: int) -> int:
        nonlocal working, most
        working += 1
        most = max(most, working)
        await asyncio.sleep(0)
        working -= 1
        return number

    assert [item async for item in in_order(numbers(20), answer, ahead=3)] == list(range(20))
    assert most == 3


async def test_an_error_comes_after_the_answers_before_it_and_cancels_the_rest() -> None:
    cancelled: list[int] = []

    async def answer(number: int) -> int:
        if number == 1:
            raise ValueError("the second")
        if number > 1:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(number)
                raise
        return number

    seen = []
    with pytest.raises(ValueError, match="the second"):
        async for item in in_order(numbers(4), answer, ahead=4):
            seen.append(item)
            await asyncio.sleep(0)
    assert seen == [0]
    assert sorted(cancelled) == [2, 3]


async def test_an_error_of_the_requests_comes_out_at_the_end() -> None:
    async def requests() -> AsyncIterator[int]:
        yield 1
        raise ValueError("the line broke")

    async def answer(number: int) -> int:
        return number

    seen = []
    with pytest.raises(ValueError, match="the line broke"):
        async for item in in_order(requests(), answer, ahead=2):
            seen.append(item)
    assert seen == [1]


async def test_items_end_when_the_event_is_set() -> None:
    event = asyncio.Event()
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[int]:
        try:
            yield 1
            event.set()
            await asyncio.Event().wait()
        finally:
            closed.set()

    assert [item async for item in until_set(event, endless())] == [1]
    assert closed.is_set()


async def test_requests_are_taken_until_the_server_drains() -> None:
    shutdown = Shutdown()

    async def requests() -> AsyncIterator[int]:
        yield 1
        shutdown.draining.set()
        await asyncio.Event().wait()

    seen = []
    with pytest.raises(Draining):
        async for item in accepted(requests(), shutdown):
            seen.append(item)
    assert seen == [1]


async def test_requests_that_are_complete_end_well() -> None:
    assert [item async for item in accepted(numbers(3), Shutdown())] == [0, 1, 2]


async def test_items_may_end_by_themselves() -> None:
    assert [item async for item in until_set(asyncio.Event(), numbers(3))] == [0, 1, 2]
