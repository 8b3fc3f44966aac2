"""Opening a build on this machine: loaded, checked, run once at each size, timed; and the wide session."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tlserve.core.errors import TlserveError, Unavailable
from tlserve.core.types import Pixels, Rows
from tlserve.runtime import GRAPH_FILE, BackboneSession, Device, reference_pixels
from tlserve.serving.builds import Resident, Wide
from tlserve.serving.pace import LEAST_SECONDS, Pace

log = logging.getLogger("tlserve.serving")

LOADING_NICENESS = 10
"""Measured on two busy cores: the median answer beside a load takes 1.4 times as long as without (2.2 times
at equal priority), and the load twice as long."""
SEEDING_ROWS = 4
"""The larger of the two batches that seed the pace on a CPU, where no batch has to be much larger."""
WIDE_GRAPH_MB = 256
"""A wide session is a second copy of the weights: none for graphs above this size."""
WIDE_TIMINGS = 5
AGREEMENT = 1e-5
"""Largest difference between the two sessions' rows, relative to a row's root mean square."""


@dataclass(frozen=True, slots=True)
class Opener:
    """How builds are opened here. Its methods block, and may be called from any thread, one at a time."""

    devices: tuple[Device, ...]
    threads: int
    wide_threads: int
    """Of the wide session; not more than `threads`: there is none."""
    wide_share: float
    """A wide session is kept if it takes at most this share of the time that the other takes."""
    max_batch: int
    batch_target_seconds: float

    @property
    def buckets(self) -> tuple[int, ...]:
        """Powers of two up to `max_batch`, and `max_batch` itself, for sessions on a GPU."""
        powers = (1 << bit for bit in range((self.max_batch - 1).bit_length()))
        return (*powers, self.max_batch)

    def least_bytes(self, folder: Path) -> int:
        """The graph's size, for each device. Raises OSError."""
        return (folder / GRAPH_FILE).stat().st_size * len(self.devices)

    def open(self, folder: Path) -> tuple[Resident, Pace]:
        """The build in `folder` on every device, checked against its reference rows and warmed up.

        Raises CorruptState, BuildMismatch, or Unavailable where it loads but cannot run (memory). Nothing
        stays open then.
        """
        before, sessions, pace = resident_bytes(), list[BackboneSession](), None
        try:
            for device in self.devices:
                sessions.append(self._open_on(device, folder))
                pace = self._warmed_up(sessions[-1])
            assert pace is not None
            graph_bytes = self.least_bytes(folder)
            added = max(resident_bytes() - before, graph_bytes)
            return Resident(tuple(sessions), added, graph_bytes), pace
        except BaseException as exc:
            for session in sessions:
                session.close()
            if isinstance(exc, TlserveError) or not isinstance(exc, Exception):
                raise
            # onnxruntime raises a class of its own for each status
            names = ", ".join(device.name for device in self.devices)
            raise Unavailable(f"the build in {folder} does not run on {names}: {exc}") from exc

    def widen(self, folder: Path, narrow: BackboneSession) -> Wide | None:
        """A wide session, or None where it is not worth its memory.

        Kept if it answers one image clearly faster than `narrow`, and with the same rows. Raises what
        opening raises.
        """
        if not self.may_widen(folder):
            return None
        before, name = resident_bytes(), narrow.spec.name
        wide = BackboneSession.open(folder, narrow.device, threads=self.wide_threads, check=False, spin=True)
        pixels = reference_pixels(narrow.spec.image)[:1]
        if not _agree(wide.rows(pixels), narrow.rows(pixels)):
            log.warning("backbone %r gives other rows on %d threads, which are not used", name, wide.threads)
            wide.close()
            return None
        seconds, seconds_narrow = _in_turns((wide, narrow), pixels)
        log.debug("backbone %r: one image takes %.4f s, on all cores %.4f s", name, seconds_narrow, seconds)
        if seconds > self.wide_share * seconds_narrow:
            wide.close()
            return None
        added = max(resident_bytes() - before, self.least_bytes(folder))
        return Wide(wide, Pace(LEAST_SECONDS, seconds), added)

    def may_widen(self, folder: Path) -> bool:
        """Whether a wide session could pay: one CPU, threads to gain, and a graph that is not too large."""
        return (
            len(self.devices) == 1
            and not self.devices[0].is_cuda
            and self.wide_threads > self.threads
            and self.least_bytes(folder) <= WIDE_GRAPH_MB * 2**20
        )

    def _open_on(self, device: Device, folder: Path) -> BackboneSession:
        buckets = self.buckets if device.is_cuda else ()
        return BackboneSession.open(folder, device, threads=self.threads, buckets=buckets)

    def _warmed_up(self, session: BackboneSession) -> Pace:
        """So that no request pays for first-time allocations; without a target, batches may be large."""
        if not session.buckets and self.batch_target_seconds <= 0:
            session.warm_up([self.max_batch])
        session.warm_up(session.buckets)
        few, many = (session.buckets[0], session.buckets[-1]) if session.buckets else (1, SEEDING_ROWS)
        many = max(many, few + 1)
        return Pace.of((few, _best_seconds(session, few, 2)), (many, _best_seconds(session, many, 1)))


def resident_bytes() -> int:
    """This process's resident memory; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def yield_to_answers() -> None:
    """Let this thread run after those that answer requests; where the system cannot, nothing happens."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOADING_NICENESS)


def _agree(one: Rows, other: Rows) -> bool:
    scale = float(np.sqrt(np.mean(np.square(other, dtype=np.float64))))
    return bool(np.abs(one - other).max() <= AGREEMENT * max(scale, 1e-6))


def _in_turns(sessions: tuple[BackboneSession, BackboneSession], pixels: Pixels) -> tuple[float, float]:
    """Best times: whatever else runs meanwhile makes both slower, and neither faster."""
    runs = [tuple(_seconds(session, pixels) for session in sessions) for _ in range(WIDE_TIMINGS)]
    return min(run[0] for run in runs), min(run[1] for run in runs)


def _best_seconds(session: BackboneSession, rows: int, times: int) -> float:
    image = session.spec.image
    pixels = np.zeros((rows, image.height, image.width, 3), np.uint8)
    return min(_seconds(session, pixels) for _ in range(times))


def _seconds(session: BackboneSession, pixels: Pixels) -> float:
    began = time.perf_counter()
    session.rows(pixels)
    return time.perf_counter() - began
