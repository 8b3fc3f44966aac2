"""The way back from the executors to the event loop, which wakes it without letting it run first.

Every ordinary way to wake a loop (`call_soon_threadsafe`, a pipe, an event) gives up Python's lock in the
system call. The loop takes it and keeps it for as long as it has answers to send and questions to read,
while the executor that woke it cannot start its next batch: 5 % of two cores stood idle so. Here the
executor rings an eventfd with the lock kept, and the loop gets it a moment later, when the session runs.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Outbox(Generic[T]):
    """What threads have done, for one event loop: `post` (any thread), `ring` (any thread), then delivered.

    Made and closed on the loop. Nothing is delivered before a `ring`; whoever posts rings soon.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, deliver: Callable[[T], None]) -> None:
        """deliver: called on the loop with each post, in their order."""
        self._deliver = deliver
        self._posts: deque[T] = deque()
        self._loop = loop
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        loop.add_reader(self._bell, self._rung)
        self._is_open = True

    def post(self, done: T) -> None:
        self._posts.append(done)

    def ring(self) -> None:
        """Have the loop deliver what was posted; costs nothing where nothing was."""
        if self._posts:
            _eventfd_write(self._bell, 1)

    def close(self) -> None:
        """Deliver what is left. No thread may ring any more. Closing twice is harmless."""
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._bell)
            os.close(self._bell)
        self._deliver_all()

    def _rung(self) -> None:
        os.eventfd_read(self._bell)
        self._deliver_all()

    def _deliver_all(self) -> None:
        while self._posts:
            self._deliver(self._posts.popleft())


# PyDLL, unlike CDLL and unlike os.eventfd_write, keeps Python's lock during the call.
_eventfd_write = ctypes.PyDLL(None).eventfd_write
_eventfd_write.argtypes = (ctypes.c_int, ctypes.c_uint64)
_eventfd_write.restype = ctypes.c_int
