"""Loaded backbone builds, shared by every version that stands on them, closed when the last one is gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tlserve.core.errors import TlserveError, Unavailable
from tlserve.runtime import BackboneSession, Device

LOADING_NICENESS = 10
"""Measured on two busy cores: the median answer beside a load takes 1.4 times as long as without (2.2 times
at equal priority), and the load twice as long."""


class Build:
    """One session and the number of its users: loaded versions, and batches under way."""

    def __init__(self, digest: str, session: BackboneSession, on_unused: Callable[[Build], None]) -> None:
        self.digest, self.session = digest, session
        self._on_unused = on_unused
        self._users = 0
        self._lock = threading.Lock()

    def retain(self) -> None:
        """From any thread, while somebody else still holds it."""
        with self._lock:
            self._users += 1

    def release(self) -> None:
        """On the event loop only: the last release closes the build."""
        with self._lock:
            self._users -= 1
            unused = self._users == 0
        if unused:
            self._on_unused(self)


class BuildShelf:
    """Opens each build once, in a thread, warmed up; gives the same one to all who ask."""

    def __init__(self, open_build: Callable[[Path], BackboneSession], folder: Path) -> None:
        """`open_build` loads and warms up the build in one folder under `folder`; it may block."""
        self._open_build, self._folder = open_build, folder
        self._open: dict[str, Build] = {}
        self._opening: dict[str, asyncio.Task[Build]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._open)

    async def acquire(self, digest: str) -> Build:
        """The build, retained for the caller. Raises what opening it raises; nothing is kept then."""
        while digest not in self._open:
            opening = self._opening.get(digest)
            if opening is None:
                opening = asyncio.create_task(self._load(digest))
                self._opening[digest] = opening
                opening.add_done_callback(lambda done: self._opened(digest, done))
            await asyncio.shield(opening)
        build = self._open[digest]
        build.retain()
        return build

    async def close(self) -> None:
        """Close whatever is open; nobody may use a build any more."""
        if self._opening:
            await asyncio.wait(self._opening.values())
        for build in list(self._open.values()):
            self._discard(build)
        if self._closing:
            await asyncio.wait(self._closing)

    async def _load(self, digest: str) -> Build:
        # A thread of its own, because loading may lower its thread's priority for good.
        loader = ThreadPoolExecutor(1, thread_name_prefix="tlserve-load")
        try:
            loop = asyncio.get_running_loop()
            session = await loop.run_in_executor(loader, self._open_build, self._folder / digest)
        finally:
            loader.shutdown(wait=False)
        build = self._open[digest] = Build(digest, session, self._discard)
        return build

    def _opened(self, digest: str, done: asyncio.Task[Build]) -> None:
        del self._opening[digest]
        if not done.cancelled():
            done.exception()  # whoever waited has it; where nobody did, it is not worth a warning

    def _discard(self, build: Build) -> None:
        if self._open.get(build.digest) is build:
            del self._open[build.digest]
            # Freeing a graph takes a while; the loop does not wait for it.
            closing = asyncio.create_task(asyncio.to_thread(build.session.close))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)


def open_warm(folder: Path, device: Device, *, threads: int, batch_sizes: Iterable[int]) -> BackboneSession:
    """The build in `folder`, loaded, checked against its reference rows, and run once at each batch size.

    Raises CorruptState, BuildMismatch, or Unavailable where it loads but cannot run (memory).
    """
    try:
        session = BackboneSession.open(folder, device, threads=threads)
        session.warm_up(batch_sizes)
    except TlserveError:
        raise
    except Exception as exc:  # onnxruntime raises a class of its own for each status
        raise Unavailable(f"the build in {folder} does not run on {device.name}: {exc}") from exc
    return session


def yield_to_answers() -> None:
    """Let this thread run after those that answer requests; where the system cannot, nothing happens."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOADING_NICENESS)
