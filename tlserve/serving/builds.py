"""One backbone build: what is known of it without loading it, and its sessions while it is in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from tlserve.core.types import Pixels, Rows
from tlserve.runtime import BackboneSession, BuildSpec
from tlserve.serving.pace import Pace, first_is_better

WIDE_SURPRISE = 3.0
"""Stalls count for more on the wide session: its threads wait for each other, so there they belong to it."""


@dataclass(eq=False, slots=True)
class Wide:
    """A session on all cores, for a batch that has the machine to itself; its rows equal the other's."""

    session: BackboneSession
    pace: Pace
    nbytes: int
    """What it added to resident memory, and at least its graph's size."""


@dataclass(eq=False, slots=True)
class Resident:
    """A build in memory: one session for each device, and perhaps a wide one."""

    sessions: tuple[BackboneSession, ...]
    nbytes: int
    """What loading it added to resident memory, and at least `graph_bytes`."""
    graph_bytes: int
    """The graph's size, for each session."""
    wide: Wide | None = None
    lone_batches: int = 0
    """Batches so far that had the machine to themselves."""
    turns: tuple[threading.Lock, ...] = ()
    """One for each session on a GPU, which runs one batch at a time: waiting for it is not running."""

    def __post_init__(self) -> None:
        if any(session.device.is_cuda for session in self.sessions):
            self.turns = tuple(threading.Lock() for _ in self.sessions)

    @property
    def buckets(self) -> Sequence[int]:
        """Batch sizes to which the sessions fill up, ascending; none where each size costs what it costs."""
        return self.sessions[0].buckets

    def close(self) -> None:
        """May take a while; nobody may be using it."""
        for session in self.sessions:
            session.close()
        if self.wide is not None:
            self.wide.session.close()
        self.sessions, self.wide = (), None


class Build:
    """A build that loaded versions stand on. In memory while `resident` is set; never without, while held."""

    def __init__(self, digest: str, spec: BuildSpec, folder: Path, on_free: Callable[[Build], None]) -> None:
        """on_free: called on the event loop whenever the last hold ended."""
        self.digest, self.spec, self.folder = digest, spec, folder
        self.resident: Resident | None = None
        self.pace = Pace(0.0, 1e-3)
        """Seeded when it is loaded."""
        self.versions = self.live_versions = 0
        """Loaded versions that stand on it, and how many of them answer by default. On the loop only."""
        self.nbytes = 0
        """What it took in memory when it was last loaded; see `Resident.nbytes`. 0 before the first time."""
        self.last_use = (0, 0.0)
        """A number that grows from use to use, and time.monotonic. On the loop only."""
        self._on_free = on_free
        self._holds = 0
        self._lock = threading.Lock()

    @property
    def held(self) -> bool:
        """Whether a lease or a batch under way needs it."""
        return self._holds > 0

    def hold(self) -> None:
        """On the loop while it is resident, or from any thread while somebody else holds it."""
        with self._lock:
            self._holds += 1

    def release(self) -> None:
        """On the event loop only."""
        with self._lock:
            self._holds -= 1
            free = self._holds == 0
        if free:
            self._on_free(self)

    def rows_within(self, seconds: float, most: int, *, backlog: int) -> int:
        """How many images a batch may hold; see `Pace.rows_within`. From any thread, while held."""
        buckets = self.resident.buckets if self.resident is not None else ()
        return self.pace.rows_within(seconds, most, buckets, backlog=backlog)

    def run(self, pixels: Pixels, *, device: int, alone: bool) -> Rows:
        """One run on the session of a device (an index), or on the wide one. From any thread, while held."""
        resident = self.resident
        assert resident is not None, "a build is resident while it is held"
        wide = resident.wide
        n, turn = len(pixels), resident.lone_batches
        # The threads of one run wait for each other: where other processes take a core, fewer are faster.
        if alone and wide is not None and first_is_better(wide.pace, self.pace, n, turn):
            began = time.perf_counter()
            rows = wide.session.rows(pixels)
            spent = time.perf_counter() - began
            wide.pace = wide.pace.after(n, spent, most_surprise=WIDE_SURPRISE)
            return rows
        with resident.turns[device] if resident.turns else nullcontext():
            began = time.perf_counter()
            rows = resident.sessions[device].rows(pixels)
            spent = time.perf_counter() - began
        # Two threads that learn at once lose one of two lessons, no more.
        self.pace = self.pace.after(_bucket(n, resident.buckets), spent)
        return rows


def _bucket(rows: int, buckets: Sequence[int]) -> int:
    return next((size for size in buckets if size >= rows), rows)
