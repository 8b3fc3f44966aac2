"""The builds in memory, and how they leave: by a limit, with their last version, or unused for a while."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Collection

from tlserve.runtime.allocator import return_free_memory
from tlserve.serving.background import Background, in_own_thread
from tlserve.serving.builds import Build, Resident
from tlserve.serving.limits import Limits, first_in_line, first_to_leave
from tlserve.serving.opening import Opener
from tlserve.serving.pace import Pace

log = logging.getLogger("tlserve.serving")


class ResidentBuilds:
    """On the event loop only; sessions are closed on threads. What is held never leaves."""

    def __init__(self, opener: Opener, limits: Limits) -> None:
        self._opener, self._limits = opener, limits
        self._builds: set[Build] = set()
        self._beside: set[Build] = set()
        """Those of them that came beside the limits and do not count before `settle`."""
        self._overhead_bytes = 0
        self._timers: dict[Build, asyncio.TimerHandle] = {}
        self._closings = Background()
        self._uses = itertools.count(1)
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._builds)

    @property
    def nbytes(self) -> int:
        """Of all of them, as counted when they were loaded."""
        return sum(build.nbytes for build in self._builds)

    def add(self, build: Build, resident: Resident, pace: Pace, *, beside: bool) -> None:
        """It was loaded; with `beside`, it does not count before `settle`."""
        build.resident, build.pace, build.nbytes = resident, pace, resident.nbytes
        self._overhead_bytes = resident.nbytes - resident.graph_bytes
        self._builds.add(build)
        if beside:
            self._beside.add(build)
        self.used(build)

    def used(self, build: Build) -> None:
        """Somebody leased it just now, or a version that stands on it went live."""
        build.last_use = next(self._uses), time.monotonic()

    def settle(self, build: Build) -> None:
        """From now on it counts like any other."""
        self._beside.discard(build)

    def obstacle(self, build: Build, coming: Collection[Build] = ()) -> str | None:
        """The setting that leaves no room for it beside the others and those coming; None: there is room."""
        others = (self._builds | set(coming)) - self._beside - {build}
        return self._limits.obstacle([self._bytes_of(one) for one in others], self._bytes_of(build))

    def room_to_widen(self, build: Build) -> bool:
        """Whether the limit of memory leaves room for as much again as it takes now."""
        return self._limits.obstacle([self.nbytes], build.nbytes) != "memory_limit_mb"

    def make_way(self) -> bool:
        """Evict the first that may leave; False where all are held."""
        victim = first_to_leave(self._builds)
        if victim is not None:
            self.evict(victim)
        return victim is not None

    def least_recent(self, *, without: Collection[Build]) -> Build | None:
        """What would leave first if nobody held it."""
        return first_in_line(self._builds - self._beside - set(without))

    def reconsider(self, build: Build) -> None:
        """Something about it changed: does it stay, and does whatever else is there?"""
        if build.resident is not None and not build.held:
            if build.versions == 0:
                self.evict(build)
            elif build.live_versions == 0:
                self._watch(build)
        # After a load beside the limits: the others leave as they become free, the newest stays.
        while (newest := self._outlasting()) is not None:
            victim = first_to_leave(self._builds - {newest})
            if victim is None:
                return
            self.evict(victim)

    def outlasts(self, build: Build) -> bool:
        """Whether it came beside the limits, and what it came for is still held and leaves before it."""
        return self._outlasting() is build

    def evict(self, build: Build) -> None:
        """Take it out of memory; nobody may hold it."""
        log.debug("backbone %r leaves memory", build.spec.name)
        self.evictions += 1
        self._discard(build)

    async def gone(self) -> None:
        """Wait until what left by now has given its memory back."""
        await self._closings.done()

    async def close(self) -> None:
        """Close all; nobody may use a build any more."""
        for build in list(self._builds):
            self._discard(build)
        await self.gone()

    def _outlasting(self) -> Build | None:
        """The newest of several, where they are more than the limits allow; else None."""
        counting = self._builds - self._beside
        if len(counting) < 2 or self._limits.kept([one.nbytes for one in counting]):
            return None
        return max(self._builds, key=lambda one: one.last_use)

    def _bytes_of(self, build: Build) -> int:
        """As measured when it was loaded; before that, its graph and what the last load added beyond one."""
        if build.nbytes:
            return build.nbytes
        try:
            return self._opener.least_bytes(build.folder) + self._overhead_bytes
        except OSError:
            return 0  # loading it will say what is wrong

    def _watch(self, build: Build) -> None:
        if build not in self._timers:
            left = build.last_use[1] + self._limits.idle_seconds - time.monotonic()
            loop = asyncio.get_running_loop()
            self._timers[build] = loop.call_later(max(left, 0.0), self._look_at, build)

    def _look_at(self, build: Build) -> None:
        del self._timers[build]
        if build.held or build.live_versions:
            return
        if time.monotonic() - build.last_use[1] >= self._limits.idle_seconds:
            self.evict(build)
        else:
            self._watch(build)

    def _discard(self, build: Build) -> None:
        resident, build.resident = build.resident, None
        self._builds.discard(build)
        self._beside.discard(build)
        timer = self._timers.pop(build, None)
        if timer is not None:
            timer.cancel()
        if resident is not None:
            # Freeing a graph takes a while; the loop does not wait for it.
            self._closings.start(in_own_thread(lambda: _close(resident)))


def _close(resident: Resident) -> None:
    resident.close()
    return_free_memory()
