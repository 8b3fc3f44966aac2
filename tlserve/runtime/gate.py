"""Lets one thread capture a CUDA graph while no other thread of the process calls CUDA.

CUDA forbids most calls (allocating, copying, waiting for a stream) in every thread while one thread captures,
and spoils the capture when one is made. ONNX Runtime captures in that mode and guards nothing. So whoever
runs, copies, loads or frees passes here, many at a time, and a capture waits until it is alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache


class CaptureGate:
    """Many inside `shared`, or one inside `alone`; who wants to be alone is let in before new ones."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._n_sharing = 0
        self.n_wanting_alone = 0
        """Threads that wait for their turn to capture."""
        self._is_alone = False
        self.opening = threading.Lock()
        """Held while a session is opened, loads and captures together. A capture that waited for another load
        to end would hold up all runs meanwhile, for seconds."""

    @contextmanager
    def shared(self) -> Iterator[None]:
        """For a run, a copy, a load: whatever calls CUDA."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_alone and not self.n_wanting_alone)
            self._n_sharing += 1
        try:
            yield
        finally:
            with self._changed:
                self._n_sharing -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """For a capture. Never from inside `shared`: it would wait for itself."""
        with self._changed:
            self.n_wanting_alone += 1
            try:
                self._changed.wait_for(lambda: not self._is_alone and not self._n_sharing)
                self._is_alone = True
            finally:
                self.n_wanting_alone -= 1
        try:
            yield
        finally:
            with self._changed:
                self._is_alone = False
                self._changed.notify_all()


@cache
def capture_gate() -> CaptureGate:
    """The one of this process; CUDA's rule knows no smaller unit, not even the device."""
    return CaptureGate()
