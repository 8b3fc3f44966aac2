"""Fans the events of models out to whoever watches. A watcher that does not keep up loses the oldest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from tlserve.rpc.backend import ModelEvent

WATCHER_BACKLOG = 1000


class EventHub:
    """Publish and watch in one event loop."""

    def __init__(self) -> None:
        self._watchers: set[asyncio.Queue[ModelEvent | None]] = set()
        self._closed = False

    def publish(self, event: ModelEvent) -> None:
        for queue in self._watchers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)

    async def watch(self, model: str) -> AsyncIterator[ModelEvent]:
        """Events from now on, of one model or (empty name) of all, until the hub closes."""
        queue: asyncio.Queue[ModelEvent | None] = asyncio.Queue(WATCHER_BACKLOG)
        self._watchers.add(queue)
        try:
            while not self._closed and (event := await queue.get()) is not None:
                if model in ("", event.model):
                    yield event
        finally:
            self._watchers.discard(queue)

    def close(self) -> None:
        """End every watch."""
        self._closed = True
        for queue in self._watchers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(None)
