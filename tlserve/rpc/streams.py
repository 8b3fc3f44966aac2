"""What the streaming RPCs share: answers in order with several requests in work, and an end at shutdown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from tlserve.core.errors import Draining

Q = TypeVar("Q")
A = TypeVar("A")
T = TypeVar("T")


class Shutdown:
    """How far the end has come: first open streams take no more work, then no call is begun."""

    def __init__(self) -> None:
        self.draining = asyncio.Event()
        self.closing = asyncio.Event()
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def call(self) -> Iterator[None]:
        """Hold while a call is in work. Raises Draining for one that comes too late.

        gRPC itself would answer it CANCELLED, which tells a client nothing about trying elsewhere.
        """
        if self.closing.is_set():
            raise Draining
        self._calls += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._calls -= 1
            if self._calls == 0:
                self._idle.set()

    async def calls_done(self, seconds: float) -> None:
        """Wait until no call is in work, `seconds` at most."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)


async def in_order(
    requests: AsyncIterator[Q], answer: Callable[[Q], Awaitable[A]], *, ahead: int
) -> AsyncIterator[A]:
    """`answer` of each request, in their order, with at most `ahead` requests in work or waiting.

    An error of an answer or of `requests` comes out where its answer would have stood, after those before it.
    """
    slots = asyncio.Semaphore(ahead)
    answers: asyncio.Queue[asyncio.Task[A] | None] = asyncio.Queue()
    working: set[asyncio.Task[A]] = set()

    async def read() -> None:
        try:
            async for request in requests:
                await slots.acquire()
                task = asyncio.ensure_future(answer(request))
                working.add(task)
                task.add_done_callback(working.discard)
                answers.put_nowait(task)
        finally:
            answers.put_nowait(None)

    reader = asyncio.create_task(read())
    try:
        while (task := await answers.get()) is not None:
            yield await task
            slots.release()
        await reader
    finally:
        unfinished = [reader, *working]
        for left in unfinished:
            left.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)


async def accepted(requests: AsyncIterator[Q], shutdown: Shutdown) -> AsyncIterator[Q]:
    """`requests` until the client ends them; raises Draining when the server stops taking them first."""
    complete = False

    async def noticed() -> AsyncIterator[Q]:
        nonlocal complete
        async for request in requests:
            yield request
        complete = True

    async for request in until_set(shutdown.draining, noticed()):
        yield request
    if not complete:
        raise Draining


async def until_set(event: asyncio.Event, items: AsyncIterator[T]) -> AsyncIterator[T]:
    """`items` until they end or `event` is set, whichever is first; the one being awaited is given up."""
    ended = asyncio.ensure_future(event.wait())
    following: asyncio.Future[T] | None = None
    try:
        while True:
            following = asyncio.ensure_future(anext(items))
            await asyncio.wait((following, ended), return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                return
            try:
                item = following.result()
            except StopAsyncIteration:
                return
            yield item
    finally:
        ended.cancel()
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
