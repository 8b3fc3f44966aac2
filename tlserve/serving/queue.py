"""The line in front of the executors: bounded in images, fair between builds, first come first served.

The event loop puts requests in, executor threads take batches out; one lock between them, so that an
executor never waits for a busy loop to hand it work. What was dropped or expired never reaches a batch.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tlserve.core.errors import BadInput, Draining, QueueFull, TlserveError
from tlserve.core.types import Pixels
from tlserve.serving.builds import Build
from tlserve.serving.served import ServedVersion
from tlserve.serving.statistics import Stages

Images = Pixels | Sequence[npt.NDArray[np.uint8]]
"""n_images of (height, width, 3) uint8, at the build's size; an (n, h, w, 3) array will do."""


@dataclass(eq=False, slots=True)
class Ticket:
    """One request in the line, and the place for its answer, which executors fill slice by slice."""

    served: ServedVersion
    images: Images
    deadline: float | None
    """On time.monotonic, which is the event loop's clock too."""
    answered: asyncio.Future[None]
    probabilities: npt.NDArray[np.float32]
    features: npt.NDArray[np.float32]
    novelty: npt.NDArray[np.float32]
    stages: Stages = field(default_factory=Stages)
    put_ns: int = 0
    rows_taken: int = 0
    rows_done: int = 0

    @classmethod
    def of(
        cls, served: ServedVersion, images: Images, deadline: float | None, answered: asyncio.Future[None]
    ) -> Ticket:
        rows = len(images)
        return cls(
            served=served,
            images=images,
            deadline=deadline,
            answered=answered,
            probabilities=np.empty((rows, len(served.labels)), np.float32),
            features=np.empty((rows, served.n_features), np.float32),
            novelty=np.empty(rows, np.float32),
        )

    @property
    def rows(self) -> int:
        return len(self.novelty)

    def settle(self, rows: int, error: TlserveError | None) -> None:
        """On the event loop: `rows` more images ran, or failed; the last of them answers the request."""
        self.rows_done += rows
        if self.answered.done():
            return
        if error is not None:
            self.answered.set_exception(error)
        elif self.rows_done == self.rows:
            self.answered.set_result(None)


@dataclass(frozen=True, slots=True)
class Slice:
    """The images `start` to `stop` of one request."""

    ticket: Ticket
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Batch:
    """What goes through one build at once. The build is retained; whoever delivers the batch releases it."""

    build: Build
    slices: tuple[Slice, ...]

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.slices)


@dataclass(slots=True)
class _Line:
    """The requests that wait for one build."""

    tickets: deque[Ticket] = field(default_factory=deque)
    rows: int = 0


class RowQueue:
    """Requests counted by their images.

    A batch holds images of one build and of any of its models. Builds take turns. Each taker leaves the
    others of `sharers` their equal part of what waits, so that a burst or a big request runs on all
    executors at once; with 1, a batch is as large as it can be.
    """

    def __init__(self, *, limit_rows: int, max_batch: int, sharers: int) -> None:
        self._limit_rows, self._max_batch, self._sharers = limit_rows, max_batch, sharers
        self._lines: dict[Build, _Line] = {}
        self._rows = 0
        self._closed = False
        self._changed = threading.Condition()

    @property
    def waiting_rows(self) -> int:
        """Images admitted (decoding or in line) and not yet taken."""
        return self._rows

    def reserve(self, rows: int) -> None:
        """Admit `rows` images, before they are decoded.

        Raises QueueFull, BadInput for what can never fit, or Draining once closed.
        """
        if rows > self._limit_rows:
            raise BadInput(f"{rows} images in one request; at most {self._limit_rows} are taken at once")
        with self._changed:
            if self._closed:
                raise Draining
            if self._rows + rows > self._limit_rows:
                raise QueueFull(waiting_rows=self._rows, limit_rows=self._limit_rows)
            self._rows += rows

    def give_back(self, rows: int) -> None:
        """Undo `reserve` for images that never came as far as `put`."""
        with self._changed:
            self._rows -= rows

    def put(self, ticket: Ticket) -> None:
        """Line up a request whose rows were reserved. Raises Draining (and gives them back) once closed."""
        ticket.put_ns = time.perf_counter_ns()
        with self._changed:
            if self._closed:
                self._rows -= ticket.rows
                raise Draining
            line = self._lines.setdefault(ticket.served.build, _Line())
            line.tickets.append(ticket)
            line.rows += ticket.rows
            self._changed.notify(ticket.rows)

    def drop(self, ticket: Ticket) -> None:
        """Forget what was not taken yet of this request; harmless when all of it was."""
        with self._changed:
            line = self._lines.get(ticket.served.build)
            if line is not None and ticket in line.tickets:
                self._remove(ticket, line)

    def take(self) -> Batch | None:
        """Wait for work (on an executor's thread) and take a batch of it; None once closed."""
        with self._changed:
            while not self._closed:
                batch = self._next_batch()
                if batch is not None:
                    return batch
                self._changed.wait()
        return None

    def close(self) -> list[Ticket]:
        """Send the executors home; the requests nobody took come back."""
        with self._changed:
            self._closed = True
            left = [ticket for line in self._lines.values() for ticket in line.tickets]
            for line in self._lines.values():
                self._rows -= line.rows
            self._lines.clear()
            self._changed.notify_all()
        return left

    def _next_batch(self) -> Batch | None:
        while self._lines:
            build = next(iter(self._lines))
            line = self._lines.pop(build)
            slices = self._take_from(line)
            if line.tickets:
                self._lines[build] = line  # to the end: the other builds come first
            if slices:
                build.retain()
                return Batch(build, tuple(slices))
        return None

    def _take_from(self, line: _Line) -> list[Slice]:
        now, slices = time.monotonic(), list[Slice]()
        room = min(self._max_batch, -(-line.rows // self._sharers))
        while room and line.tickets:
            ticket = line.tickets[0]
            if ticket.deadline is not None and ticket.deadline <= now:
                self._remove(ticket, line)
                continue
            part = Slice(ticket, ticket.rows_taken, min(ticket.rows, ticket.rows_taken + room))
            ticket.rows_taken = part.stop
            room -= part.rows
            line.rows -= part.rows
            self._rows -= part.rows
            slices.append(part)
            if ticket.rows_taken == ticket.rows:
                line.tickets.popleft()
        if len(slices) == 1 and line.tickets and line.tickets[0] is slices[0].ticket:
            # A request that fills batches alone lets the others of its build in between.
            line.tickets.rotate(-1)
        return slices

    def _remove(self, ticket: Ticket, line: _Line) -> None:
        line.tickets.remove(ticket)
        left = ticket.rows - ticket.rows_taken
        line.rows -= left
        self._rows -= left
