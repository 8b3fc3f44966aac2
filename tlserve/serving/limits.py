"""The rules of residency, without effects: what may be in memory, what leaves first, when failures rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from tlserve.core.errors import Unavailable
from tlserve.serving.builds import Build

BUILD_IDLE_SECONDS = 60.0
FIRST_REST_SECONDS, LONGEST_REST_SECONDS = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be in memory; 0 means no limit."""

    max_backbones: int = 0
    memory_bytes: int = 0
    idle_seconds: float = BUILD_IDLE_SECONDS
    """How long a build stays that no live version stands on and nobody uses."""

    def obstacle(self, others: Collection[int], wanted: int) -> str | None:
        """The setting that keeps a build of `wanted` bytes out beside `others`, in bytes; None: it may come.

        A build alone is always let in, however large: it could never answer otherwise.
        """
        if self.max_backbones and len(others) >= self.max_backbones:
            return "max_backbones"
        if self.memory_bytes and others and sum(others) + wanted > self.memory_bytes:
            return "memory_limit_mb"
        return None

    def kept(self, resident: Collection[int]) -> bool:
        """Whether builds of so many bytes each may stay together."""
        if self.max_backbones and len(resident) > self.max_backbones:
            return False
        return not self.memory_bytes or sum(resident) <= self.memory_bytes


def first_to_leave(builds: Iterable[Build]) -> Build | None:
    """Of those that nobody holds: what answers for no model by default, and then the least recently used."""
    return first_in_line(build for build in builds if not build.held)


def first_in_line(builds: Iterable[Build]) -> Build | None:
    """As `first_to_leave`, held or not."""
    return min(builds, key=lambda build: (build.live_versions > 0, build.last_use), default=None)


@dataclass(frozen=True, slots=True)
class _Rest:
    reason: str
    seconds: float
    ends: float


class Rests:
    """Builds whose last load failed: each rests before requests make it try again, longer every time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rests: dict[str, _Rest] = {}

    def failed(self, digest: str, reason: str) -> None:
        last = self._rests.get(digest)
        seconds = FIRST_REST_SECONDS if last is None else min(2 * last.seconds, LONGEST_REST_SECONDS)
        self._rests[digest] = _Rest(reason, seconds, self._clock() + seconds)

    def loaded(self, digest: str) -> None:
        self._rests.pop(digest, None)

    def resting(self, digest: str) -> bool:
        rest = self._rests.get(digest)
        return rest is not None and self._clock() < rest.ends

    def check(self, digest: str) -> None:
        """Raises Unavailable with why the last load failed, while it rests."""
        if self.resting(digest):
            rest = self._rests[digest]
            raise Unavailable(f"{rest.reason} (the next try is due in {rest.ends - self._clock():.1f} s)")
