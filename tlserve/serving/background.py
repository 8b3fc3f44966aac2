"""Work that goes on beside requests: tasks that somebody waits for in the end, and threads of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Background:
    """Tasks under way that deal with their own errors. On the event loop only."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def done(self) -> None:
        """Wait for those that are under way now."""
        if self._tasks:
            await asyncio.wait(list(self._tasks))


async def in_own_thread(work: Callable[[], T]) -> T:
    """On a thread that nothing else will use: loading may lower its priority for good."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="tlserve-load")
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, work)
    finally:
        thread.shutdown(wait=False)
