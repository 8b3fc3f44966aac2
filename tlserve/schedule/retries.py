"""Passes that failed and are tried again by themselves, after pauses that grow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tlserve.schedule.requests import PassRequest

FIRST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 300.0


class Retries:
    """At most one a model. again: called in the event loop with a pass whose pause is over."""

    def __init__(
        self, again: Callable[[PassRequest], object], first_seconds: float = FIRST_RETRY_SECONDS
    ) -> None:
        self._again, self._first_seconds = again, first_seconds
        self._failures: dict[str, int] = {}
        self._paused: dict[str, tuple[PassRequest, asyncio.TimerHandle]] = {}

    def get(self, model: str) -> PassRequest | None:
        """The pass of this model that will be tried again."""
        return self._paused[model][0] if model in self._paused else None

    def take(self, model: str) -> PassRequest:
        """The same, and it will not be tried again by itself."""
        request, timer = self._paused.pop(model)
        timer.cancel()
        return request

    def later(self, request: PassRequest) -> float:
        """Try again after a pause, whose seconds are returned; it is longer after each failure."""
        model = request.model
        failures = self._failures.get(model, 0)
        self._failures[model] = failures + 1
        pause = min(self._first_seconds * 2.0 ** min(failures, 20), LONGEST_RETRY_SECONDS)
        timer = asyncio.get_running_loop().call_later(pause, lambda: self._again(self.take(model)))
        self._paused[model] = request, timer
        return pause

    def forgive(self, model: str) -> None:
        """The next failure is a first one: a pass succeeded, or something changed."""
        self._failures.pop(model, None)

    def close(self) -> None:
        """Nothing is tried again."""
        for _, timer in self._paused.values():
            timer.cancel()
