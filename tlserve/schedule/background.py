"""Work that waits until nothing else does: an ordered list, and how long what failed rests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from tlserve.core.messages import Job
from tlserve.schedule.keeper import LastEvent
from tlserve.schedule.requests import PassRequest

FIRST_REST_SECONDS = 60.0
LONGEST_REST_SECONDS = 3600.0


@dataclass(frozen=True, eq=False)
class Chore:
    """One piece of work: a pass, or a job with somebody who waits for its end."""

    name: str
    request: PassRequest | None = None
    job: Job | None = None
    done: asyncio.Future[LastEvent] | None = None

    @property
    def rank(self) -> int:
        """Refinements first, which are short; then what somebody waits for; then what may take hours."""
        if self.request is None:
            return 1
        return 0 if self.request.refine else 2

    @property
    def purpose(self) -> str:
        is_refinement = self.request is not None and self.request.refine
        return "the refinement of the fast version" if is_refinement else "the search for a better version"


class Background:
    """The chores, by rank, then first come first served; each name is there once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._chores: list[Chore] = []
        self._rests: dict[str, tuple[str, int, float]] = {}
        """By name: the model, how often it failed in a row, and until when it rests."""

    def __bool__(self) -> bool:
        return bool(self._chores)

    def add(self, request: PassRequest, *, name: str) -> None:
        """A pass; the newest of one name counts. While the name rests after a failure nothing is added."""
        if name in self._rests and self._clock() < self._rests[name][2]:
            return
        self.drop(name)
        self._chores.append(Chore(name, request))

    def add_errand(self, job: Job, done: asyncio.Future[LastEvent]) -> None:
        """A job that somebody waits for."""
        self._chores.append(Chore(job.job_id, job=job, done=done))

    def drop(self, name: str) -> None:
        """Nobody wants this one any more."""
        self._chores = [chore for chore in self._chores if chore.name != name]

    def take(self) -> Chore:
        """The next chore, which is gone from the list."""
        chosen = min(self._chores, key=lambda chore: chore.rank)
        self._chores.remove(chosen)
        return chosen

    def put_back(self, chore: Chore) -> None:
        """A chore that was set aside goes before others of its rank, unless a newer one of its name came."""
        if not any(other.name == chore.name for other in self._chores):
            self._chores.insert(0, chore)

    def failed(self, chore: Chore) -> float:
        """Note a failure; returns the seconds for which the name rests now, longer each time."""
        _, failures, _ = self._rests.get(chore.name, ("", 0, 0.0))
        rest = min(FIRST_REST_SECONDS * 2.0 ** min(failures, 20), LONGEST_REST_SECONDS)
        assert chore.request is not None
        self._rests[chore.name] = chore.request.model, failures + 1, self._clock() + rest
        return rest

    def forgive(self, model: str) -> None:
        """Something about the model changed: what failed before may be tried again."""
        self._rests = {name: rest for name, rest in self._rests.items() if rest[0] != model}

    def close(self) -> None:
        """Nobody needs to wait any more."""
        for chore in self._chores:
            if chore.done is not None:
                chore.done.cancel()


def refinement_of(model: str) -> str:
    """The name of that chore."""
    return f"refine {model}"
