"""The threads that run batches: fill, backbone once, each request's own head, answers to the loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tlserve.core.errors import TlserveError, Unavailable
from tlserve.core.head import answers
from tlserve.core.types import Pixels, Rows
from tlserve.plugin_api import ImageSpec
from tlserve.serving.outbox import Outbox
from tlserve.serving.queue import Batch, RowQueue, Slice, Ticket
from tlserve.serving.served import ServedVersion


@dataclass(frozen=True, slots=True)
class BatchRun:
    """A batch that ran: its answers stand in its tickets, unless it failed."""

    batch: Batch
    taken_ns: int
    """time.perf_counter_ns when an executor took it."""
    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0
    error: TlserveError | None = None

    def count_into(self, ticket: Ticket) -> None:
        """Add this batch's time to a request's own; a request in several batches waited for the last one."""
        ticket.stages.queue_ns = self.taken_ns - ticket.put_ns
        ticket.stages.input_ns += self.input_ns
        ticket.stages.infer_ns += self.infer_ns
        ticket.stages.output_ns += self.output_ns


class BatchRunner:
    """Runs one batch after the other in one thread, with one pixel buffer for each image size."""

    def __init__(self, max_batch: int, device: int) -> None:
        """device: which of a build's sessions it runs, an index."""
        self._max_batch, self._device = max_batch, device
        self._buffers: dict[tuple[int, int], Pixels] = {}

    def run(self, batch: Batch, before: Callable[[], None] = lambda: None) -> BatchRun:
        """Answer every slice in its ticket. Errors come back in the result: they belong to the requests.

        before: called first. From then until the session runs, Python's lock is kept where that is possible.
        """
        taken = time.perf_counter_ns()
        ordered = sorted(batch.slices, key=lambda part: id(part.ticket.served))
        try:
            before()
            pixels = self._pixels(batch, ordered)
            filled = time.perf_counter_ns()
            rows = batch.build.run(pixels, device=self._device, alone=batch.alone)
            inferred = time.perf_counter_ns()
            _apply_heads(ordered, rows)
        except TlserveError as exc:
            return BatchRun(batch, taken, error=exc)
        except Exception as exc:  # onnxruntime raises a class of its own for each status
            return BatchRun(batch, taken, error=_translated(exc))
        done = time.perf_counter_ns()
        return BatchRun(batch, taken, filled - taken, inferred - filled, done - inferred)

    def _pixels(self, batch: Batch, ordered: list[Slice]) -> Pixels:
        """The batch's images side by side: copied once, into the buffer, unless they already are."""
        if len(ordered) == 1:
            (part,) = ordered
            images = part.ticket.images[part.start : part.stop]
            if isinstance(images, np.ndarray) and images.flags.c_contiguous:
                return images
            if len(images) == 1 and images[0].flags.c_contiguous:
                return images[0][None]
        return self._filled(batch.build.spec.image, ordered)

    def _filled(self, image: ImageSpec, ordered: list[Slice]) -> Pixels:
        size = image.height, image.width
        if size not in self._buffers:
            self._buffers[size] = np.zeros((self._max_batch, *size, 3), np.uint8)
        buffer, at = self._buffers[size], 0
        for part in ordered:
            for picture in part.ticket.images[part.start : part.stop]:
                _copy(picture, buffer[at])
                at += 1
        return buffer[:at]


class Executors:
    """`count` threads for each device that take batches from the queue until it closes."""

    def __init__(
        self,
        queue: RowQueue,
        make_runner: Callable[[int], BatchRunner],
        deliver: Callable[[BatchRun], None],
        *,
        count: int,
        n_devices: int = 1,
    ) -> None:
        """make_runner: for a device (an index). deliver: called on the event loop with each run."""
        self._queue, self._make_runner, self._deliver = queue, make_runner, deliver
        self._count, self._n_devices = count, n_devices
        self._threads: list[threading.Thread] = []
        self._outbox: Outbox[BatchRun] | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._outbox = Outbox(loop, self._deliver)
        for index in range(self._count * self._n_devices):
            turn, device = divmod(index, self._n_devices)
            name = f"tlserve-executor-{turn}-on-{device}"
            thread = threading.Thread(target=self._work, args=(self._outbox, device), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    async def stop(self) -> None:
        """Wait for the batches under way and deliver them; the queue must be closed."""
        await asyncio.to_thread(self._join)
        if self._outbox is not None:
            self._outbox.close()

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _work(self, outbox: Outbox[BatchRun], device: int) -> None:
        runner = self._make_runner(device)
        while self._work_once(outbox, runner, device):
            pass

    def _work_once(self, outbox: Outbox[BatchRun], runner: BatchRunner, device: int) -> bool:
        """In a function of its own, so that a thread which waits keeps nothing of its last batch alive.

        What ran is announced when this thread will soon do without Python's lock for a while: as the next
        batch is made ready, or before waiting for one.
        """
        batch = self._queue.take(device, before_waiting=outbox.ring)
        if batch is None:
            return False
        outbox.post(runner.run(batch, before=outbox.ring))
        self._queue.done(device)
        return True


def _copy(picture: npt.NDArray[np.uint8], place: npt.NDArray[np.uint8]) -> None:
    """`place[...] = picture`, for which numpy would give up Python's lock: see `outbox`."""
    if picture.flags.c_contiguous:
        place.data.cast("B")[:] = picture.data.cast("B")
    else:
        place[...] = picture


def _apply_heads(ordered: list[Slice], rows: Rows) -> None:
    """Write each slice's answer into its ticket; neighbours of one version go through its head together."""
    first = start = 0
    while first < len(ordered):
        served = ordered[first].ticket.served
        last = first
        while last < len(ordered) and ordered[last].ticket.served is served:
            last += 1
        group = ordered[first:last]
        stop = start + sum(part.rows for part in group)
        _apply_head(served, group, rows[start:stop])
        first, start = last, stop


def _apply_head(served: ServedVersion, group: list[Slice], rows: Rows) -> None:
    head = served.version.head
    features = rows[:, served.columns]
    probabilities, novelty = answers(head, features)
    at = 0
    for part in group:
        ticket, here, there = part.ticket, slice(at, at + part.rows), slice(part.start, part.stop)
        ticket.probabilities[there] = probabilities[here]
        ticket.features[there] = features[here]
        ticket.novelty[there] = novelty[here]
        at += part.rows


def _translated(exc: Exception) -> Unavailable:
    error = Unavailable(f"the backbone could not run this batch: {exc}")
    error.__cause__ = exc
    return error
