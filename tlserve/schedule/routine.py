"""When all folders are looked at again, although nobody saw anything change in them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

log = logging.getLogger("tlserve.schedule")

REST_FACTOR = 50
"""The folders rest for this many times as long as the last look at them took..."""
LONGEST_REST_SECONDS = 3600.0
"""...but never longer than this."""


class RoutineLooks:
    """models: those to look at; on a thread. look: asks for one, in the event loop.

    every_seconds: between two rounds, where looking is cheap.
    """

    def __init__(
        self, models: Callable[[], Sequence[str]], look: Callable[[str], None], every_seconds: float
    ) -> None:
        self._models, self._look, self._every_seconds = models, look, every_seconds
        self._round_seconds = 0.0

    def took(self, seconds: float) -> None:
        """A look at an unchanged folder took this long; the next round of looks waits in proportion."""
        self._round_seconds += seconds

    async def run(self) -> None:
        """Look until cancelled; once at the start."""
        clock = asyncio.get_running_loop().time
        while True:
            self._round_seconds, began = 0.0, clock()
            try:
                for model in await asyncio.to_thread(self._models):
                    self._look(model)
            except Exception:
                log.exception("the watched folders could not be listed; trying again later")
            while (rest := began + self._rest_seconds() - clock()) > 0:  # noqa: ASYNC110
                # Looks of this round may still be under way and make its rest longer.
                await asyncio.sleep(min(rest, self._every_seconds))

    def _rest_seconds(self) -> float:
        return max(self._every_seconds, min(REST_FACTOR * self._round_seconds, LONGEST_REST_SECONDS))
