"""What threads have done reaches the event loop, once it is rung, in order and whole."""

from __future__ import annotations

import asyncio
import threading

from tlserve.serving.outbox import Outbox


async def test_posts_are_delivered_on_the_loop_in_their_order_once_somebody_rings() -> None:
    delivered: list[tuple[int, str]] = []
    loop_thread = threading.current_thread().name
    outbox: Outbox[int] = Outbox(
        asyncio.get_running_loop(), lambda post: delivered.append((post, threading.current_thread().name))
    )

    def work() -> None:
        for post in range(100):
            outbox.post(post)
        outbox.ring()

    await asyncio.to_thread(work)
    async with asyncio.timeout(10):
        while len(delivered) < 100:
            await asyncio.sleep(0.001)
    assert delivered == [(post, loop_thread) for post in range(100)]
    outbox.close()


async def test_many_threads_lose_nothing() -> None:
    delivered: list[int] = []
    outbox: Outbox[int] = Outbox(asyncio.get_running_loop(), delivered.append)

    def work(first: int) -> None:
        for post in range(first, first + 500):
            outbox.post(post)
            outbox.ring()

    await asyncio.gather(*(asyncio.to_thread(work, 500 * turn) for turn in range(4)))
    async with asyncio.timeout(10):
        while len(delivered) < 2000:
            await asyncio.sleep(0.001)
    assert sorted(delivered) == list(range(2000))
    outbox.close()


async def test_closing_delivers_what_nobody_rang_for_and_may_be_done_twice() -> None:
    delivered: list[int] = []
    outbox: Outbox[int] = Outbox(asyncio.get_running_loop(), delivered.append)
    outbox.post(7)
    await asyncio.sleep(0)
    assert delivered == []
    outbox.close()
    outbox.close()
    assert delivered == [7]
