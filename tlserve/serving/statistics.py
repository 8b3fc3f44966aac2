"""What the pool counts: per version as Triton's ModelStatistics has it, and totals for metrics.

Durations are in nanoseconds and, as in Triton, counted per request: every request of a batch counts
the whole batch's compute time.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Stages:
    """Where one request's time went, in nanoseconds."""

    queue_ns: int = 0
    input_ns: int = 0
    """Decoding, resizing and filling the batch."""
    infer_ns: int = 0
    """The backbone."""
    output_ns: int = 0
    """The heads."""


@dataclass(frozen=True, slots=True)
class Duration:
    """How often something happened, and how long it took in all."""

    count: int = 0
    total_ns: int = 0

    def plus(self, ns: int) -> Duration:
        return Duration(self.count + 1, self.total_ns + ns)


@dataclass(frozen=True, slots=True)
class VersionStatistics:
    """One version since it was loaded. `fail` counts refused, expired and cancelled requests too."""

    model: str
    version: int
    last_inference_ms: int = 0
    """Unix time in milliseconds of the last answer, 0 before the first."""
    inference_count: int = 0
    """Images answered."""
    execution_count: int = 0
    """Batches that held images of this version."""
    success: Duration = Duration()
    fail: Duration = Duration()
    queue: Duration = Duration()
    compute_input: Duration = Duration()
    compute_infer: Duration = Duration()
    compute_output: Duration = Duration()


@dataclass(frozen=True, slots=True)
class PoolTotals:
    """Counters over all models since the start, and what waits now."""

    requests: int = 0
    """Answered."""
    images: int = 0
    """Answered."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Requests not answered, by the error's name (QueueFull, DeadlinePassed, BadImage, Cancelled ...)."""
    batches: int = 0
    batch_rows: int = 0
    """Sum of batch sizes; over `batches`, the mean."""
    batch_sizes: Mapping[int, int] = field(default_factory=dict)
    """How many batches had each size."""
    waiting_rows: int = 0
    """Images admitted and not yet running."""
    requests_open: int = 0
    """Requests that hold a version now."""
    builds_open: int = 0
    """Backbone builds in memory."""
    resident_bytes: int = 0
    """What they take there, as counted when they were loaded."""
    loads: int = 0
    load_failures: int = 0
    evictions: int = 0
    """Builds that left memory."""
    cold_waits: int = 0
    """Leases that had to wait for a build."""


class VersionCounter:
    """Counts for one served version; used on the event loop only."""

    def __init__(self, model: str, version: int) -> None:
        self._model, self._version = model, version
        self._last_ms = self._images = self._batches = 0
        self._success = self._fail = self._queue = self._input = self._infer = self._output = Duration()

    def answered(self, images: int, elapsed_ns: int, stages: Stages) -> None:
        self._images += images
        self._last_ms = time.time_ns() // 1_000_000
        self._success = self._success.plus(elapsed_ns)
        self._queue = self._queue.plus(stages.queue_ns)
        self._input = self._input.plus(stages.input_ns)
        self._infer = self._infer.plus(stages.infer_ns)
        self._output = self._output.plus(stages.output_ns)

    def failed(self, elapsed_ns: int) -> None:
        self._fail = self._fail.plus(elapsed_ns)

    def ran(self) -> None:
        self._batches += 1

    def read(self) -> VersionStatistics:
        return VersionStatistics(
            model=self._model,
            version=self._version,
            last_inference_ms=self._last_ms,
            inference_count=self._images,
            execution_count=self._batches,
            success=self._success,
            fail=self._fail,
            queue=self._queue,
            compute_input=self._input,
            compute_infer=self._infer,
            compute_output=self._output,
        )


class PoolCounter:
    """Counts for the whole pool; used on the event loop only."""

    def __init__(self) -> None:
        self._requests = self._images = 0
        self._failures: Counter[str] = Counter()
        self._batch_sizes: Counter[int] = Counter()

    def answered(self, images: int) -> None:
        self._requests += 1
        self._images += images

    def failed(self, kind: str) -> None:
        self._failures[kind] += 1

    def ran(self, rows: int) -> None:
        self._batch_sizes[rows] += 1

    def read(self) -> PoolTotals:
        """Its own counts; the pool adds what others know."""
        return PoolTotals(
            requests=self._requests,
            images=self._images,
            failures=dict(self._failures),
            batches=self._batch_sizes.total(),
            batch_rows=sum(size * count for size, count in self._batch_sizes.items()),
            batch_sizes=dict(self._batch_sizes),
        )
