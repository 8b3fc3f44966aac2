"""A steady stream of classify calls, so that a new version has to go live under load."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from types import TracebackType
from typing import Self

from tlserve.client import Client

CLIENTS = 2
PAUSE_SECONDS = 0.03
"""Leaves a machine with two cores some time to learn; what the pool can take, the benchmarks measure."""
REQUEST_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Call:
    """One request: when its answer came (monotonic clock), how long it took, which version gave it."""

    at: float
    seconds: float
    version: int | None
    error: str = ""


class Load:
    """Asks one image at a time from several clients, each on its own connection, until the block ends."""

    def __init__(self, address: str, model: str, questions: Sequence[bytes]) -> None:
        self._address, self._model, self._questions = address, model, questions
        self._calls: list[Call] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def calls(self) -> list[Call]:
        """All calls so far, in the order of their answers."""
        with self._lock:
            return list(self._calls)

    def first_answer_after(self, version: int) -> Call | None:
        """The first call that a version newer than this one answered; None while there is none."""
        return next((call for call in self.calls if (call.version or 0) > version), None)

    def _ask(self, number: int) -> None:
        with Client(self._address, timeout_seconds=REQUEST_SECONDS) as client:
            # The clients start at different places, so that they do not ask the same thing in step.
            for question in islice(cycle(self._questions), number * len(self._questions) // CLIENTS, None):
                call = self._one_call(client, question)
                with self._lock:
                    self._calls.append(call)
                if self._over.wait(PAUSE_SECONDS):
                    return

    def _one_call(self, client: Client, question: bytes) -> Call:
        began = time.monotonic()
        version, error = None, ""
        try:
            version = int(client.classify(self._model, [question])[0].version)
        except Exception as exc:  # whatever it is, it is a failed request, and the demo counts those
            error = f"{type(exc).__name__}: {exc}"
        now = time.monotonic()
        return Call(now, now - began, version, error)
