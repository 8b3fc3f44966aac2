"""Who waits for the trainer, and who of them is next.

Nobody starves: whoever waits longest goes next after being overtaken a few times, whatever its rank.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from tlserve.core.messages import ExportJob, Job
from tlserve.schedule.keeper import LastEvent
from tlserve.schedule.requests import PassRequest, Rank
from tlserve.schedule.turns import Turn

MOST_OVERTAKINGS = 4
"""So many go before whoever waits longest."""


@dataclass(frozen=True, eq=False)
class Errand:
    """A job that is no pass."""

    job: Job
    done: asyncio.Future[LastEvent]
    patient: bool = False
    """Whether it is not worth interrupting anybody."""


class Line:
    """Passes, one a model, and errands that wait for the trainer."""

    def __init__(self) -> None:
        self._errands: deque[Errand] = deque()
        """That somebody waits for."""
        self._waiting: dict[str, PassRequest | Errand] = {}
        """Passes by model, exports by the id of their job (no model's name begins so); as they came."""
        self._errand_was_last = False
        self._overtakings = 0

    def __bool__(self) -> bool:
        return bool(self._errands or self._waiting)

    def __contains__(self, model: str) -> bool:
        return model in self._waiting

    def add(self, request: PassRequest) -> PassRequest:
        """A wish for a pass; returns it joined with what waits of the same model."""
        waiting = self._waiting.get(request.model)
        if isinstance(waiting, PassRequest):
            request = waiting.joined(request)
        self._waiting[request.model] = request
        return request

    def put_back(self, request: PassRequest) -> None:
        """A pass that made room, joined with what was asked of its model meanwhile, behind all that wait."""
        newer = self.pop(request.model)
        self._waiting[request.model] = request if newer is None else request.joined(newer)

    def pop(self, model: str) -> PassRequest | None:
        """What waits of this model; it waits no more."""
        waiting = self._waiting.pop(model, None)
        assert not isinstance(waiting, Errand)
        return waiting

    def add_errand(self, errand: Errand) -> None:
        if isinstance(errand.job, ExportJob):
            self._waiting[f"/{errand.job.job_id}"] = errand
        else:
            self._errands.append(errand)

    def take(self) -> PassRequest | Errand:
        """Who is next, and waits no more."""
        urgent = any(_rank(entry) < Rank.EXPORT for entry in self._waiting.values())
        # Errands go first, but not all of them before a fresh drop: then they take turns.
        self._errand_was_last = bool(self._errands) and not (urgent and self._errand_was_last)
        if self._errand_was_last:
            return self._errands.popleft()
        longest = chosen = next(iter(self._waiting))
        if self._overtakings < MOST_OVERTAKINGS:
            chosen = min(self._waiting, key=lambda name: _rank(self._waiting[name]))
        self._overtakings = 0 if chosen == longest else self._overtakings + 1
        return self._waiting.pop(chosen)

    def claim_on(self, turn: Turn) -> int | None:
        """How often the turn of those who may interrupt what runs was doubled; None: nobody may.

        Where there are several, it is the smallest number.
        """
        claims = [
            waiting.doubled
            for waiting in self._waiting.values()
            if isinstance(waiting, PassRequest) and turn.may_be_interrupted_by(waiting)
        ]
        claims += [0 for errand in self._errands if not errand.patient and not errand.done.done()]
        return min(claims, default=None)

    def close(self) -> None:
        """Nobody needs to wait any more."""
        for waiting in (*self._errands, *self._waiting.values()):
            if isinstance(waiting, Errand):
                waiting.done.cancel()


def _rank(waiting: PassRequest | Errand) -> Rank:
    return Rank.EXPORT if isinstance(waiting, Errand) else waiting.rank
