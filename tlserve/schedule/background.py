"""Work that waits until nothing else does: an ordered list, what runs of it, and how long failures rest."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from tlserve.core.messages import Job
from tlserve.schedule.keeper import LastEvent

FIRST_REST_SECONDS = 60.0
LONGEST_REST_SECONDS = 3600.0


class Named(Protocol):
    """A wish for a pass."""

    @property
    def job_id(self) -> str: ...

    @property
    def model(self) -> str: ...


R = TypeVar("R", bound=Named)


@dataclass(frozen=True, eq=False)
class Chore(Generic[R]):
    """One piece of work: a pass, or a job with somebody who waits for its end."""

    name: str
    request: R | None = None
    job: Job | None = None
    done: asyncio.Future[LastEvent] | None = None


class Background(Generic[R]):
    """The chores, first come first served; each name is there once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._chores: deque[Chore[R]] = deque()
        self._rests: dict[str, tuple[str, int, float]] = {}
        """By name: the model, how often it failed in a row, and until when it rests."""
        self.job_id: str | None = None
        """Of the chore that runs now."""
        self.must_end = False
        """Whether that one was told to make room."""
        self.waited_for: asyncio.Future[LastEvent] | None = None
        """By whoever asked for the chore that runs now; None for a pass, which nobody waits for."""

    def __bool__(self) -> bool:
        return bool(self._chores)

    def add(self, request: R, *, name: str) -> None:
        """A pass; the newest of one name counts. While the name rests after a failure nothing is added."""
        if name in self._rests and self._clock() < self._rests[name][2]:
            return
        self._chores = deque(chore for chore in self._chores if chore.name != name)
        self._chores.append(Chore(name, request))

    def add_errand(self, job: Job, done: asyncio.Future[LastEvent]) -> None:
        """A job that somebody waits for, before all passes."""
        self._chores.appendleft(Chore(job.job_id, job=job, done=done))

    def take(self) -> Chore[R]:
        """The next chore, which is gone from the list."""
        return self._chores.popleft()

    def put_back(self, chore: Chore[R]) -> None:
        """A chore that was set aside goes before the passes, unless a newer one of its name came."""
        if any(other.name == chore.name for other in self._chores):
            return
        errands = sum(other.request is None for other in self._chores)
        self._chores.insert(errands if chore.request is not None else 0, chore)

    def failed(self, chore: Chore[R]) -> float:
        """Note a failure; returns the seconds for which the name rests now, longer each time."""
        _, failures, _ = self._rests.get(chore.name, ("", 0, 0.0))
        rest = min(FIRST_REST_SECONDS * 2.0**failures, LONGEST_REST_SECONDS)
        assert chore.request is not None
        self._rests[chore.name] = chore.request.model, failures + 1, self._clock() + rest
        return rest

    def forgive(self, model: str) -> None:
        """Something about the model changed: what failed before may be tried again."""
        self._rests = {name: rest for name, rest in self._rests.items() if rest[0] != model}

    @contextlib.contextmanager
    def running(self, job_id: str, waited_for: asyncio.Future[LastEvent] | None = None) -> Iterator[None]:
        """While a chore runs."""
        self.job_id, self.must_end, self.waited_for = job_id, False, waited_for
        try:
            yield
        finally:
            self.job_id = self.waited_for = None

    def close(self) -> None:
        """Nobody needs to wait any more."""
        for chore in self._chores:
            if chore.done is not None:
                chore.done.cancel()
