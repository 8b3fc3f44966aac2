"""The line in front of the executors: bounded in images, fair between builds, first come first served.

The event loop puts requests in, executor threads take batches out; one lock between them, so that an
executor never waits for a busy loop to hand it work. What was dropped or expired never reaches a batch.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
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

BACKLOG_SHARE = 4
"""Beyond the target, a batch may take this part (one in so many) of what waits: who stands in a long line
loses little by it, and larger batches clear it sooner. Measured beside other work on the same two cores: 15 %
more images per CPU second with 8 in a batch than with 1; the target alone came down to 1 there."""

CALM_SECONDS = 0.1
"""For so long nothing may have run beside another batch before one gets the whole machine: two requests in
the same moment are soon followed by two more, and then each is faster on cores of its own."""


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
    """What goes through one build at once. The build is held; whoever delivers the batch releases it."""

    build: Build
    slices: tuple[Slice, ...]
    alone: bool
    """Whether nothing else runs or waits, and nothing did lately: it may use the whole machine."""

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

    A batch holds images of one build and of any of its models, as many as are expected to run within the
    target, or more where many wait. Builds take turns. Each taker leaves the others of `sharers` their
    equal part of what waits, so that a burst or a big request runs on all executors at once.

    Several devices pull from it, each with takers of its own; one where less runs goes first.
    """

    def __init__(
        self,
        *,
        limit_rows: int,
        max_batch: int,
        sharers: int,
        batch_target_seconds: float = 0.0,
        n_devices: int = 1,
    ) -> None:
        self._limit_rows, self._max_batch, self._sharers = limit_rows, max_batch, sharers
        self._batch_target_seconds = batch_target_seconds
        self._lines: dict[Build, _Line] = {}
        self._rows = 0
        self._running, self._idle = [0] * n_devices, [0] * n_devices
        self._crowded_at = -math.inf
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
            self._wake(ticket.rows)

    def drop(self, ticket: Ticket) -> None:
        """Forget what was not taken yet of this request; harmless when all of it was."""
        with self._changed:
            line = self._lines.get(ticket.served.build)
            if line is not None and ticket in line.tickets:
                self._remove(ticket, line)
                if not line.tickets:
                    # Nobody holds its build for it any more: no executor may come across it.
                    del self._lines[ticket.served.build]

    def take(self, device: int = 0, *, before_waiting: Callable[[], None] = lambda: None) -> Batch | None:
        """Wait for work (on a thread of that device) and take a batch of it; None once closed.

        Every batch that was taken ends with `done`. before_waiting: called, with the line's lock held,
        whenever there is nothing to take.
        """
        with self._changed:
            while not self._closed:
                batch = self._next_batch() if self._is_turn_of(device) else None
                if batch is not None:
                    self._running[device] += 1
                    if self._lines and len(self._idle) > 1:
                        self._changed.notify_all()  # some may have let this device go first
                    return batch
                before_waiting()
                self._idle[device] += 1
                self._changed.wait()
                self._idle[device] -= 1
        return None

    def done(self, device: int = 0) -> None:
        """A batch that this device took has run."""
        with self._changed:
            self._running[device] -= 1

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

    def _wake(self, rows: int) -> None:
        """One thread for each image at most; with several devices all, for only some may take."""
        if len(self._idle) > 1:
            self._changed.notify_all()
        else:
            self._changed.notify(rows)

    def _is_turn_of(self, device: int) -> bool:
        """Not while a device where less runs has a thread that waits."""
        return not any(
            idle and running < self._running[device]
            for idle, running in zip(self._idle, self._running, strict=True)
        )

    def _next_batch(self) -> Batch | None:
        while self._lines:
            build = next(iter(self._lines))
            line = self._lines.pop(build)
            slices = self._take_from(line, build)
            if line.tickets:
                self._lines[build] = line  # to the end: the other builds come first
            if slices:
                build.hold()
                return Batch(build, tuple(slices), self._is_alone())
        return None

    def _is_alone(self) -> bool:
        now = time.monotonic()
        if self._rows or any(self._running):
            self._crowded_at = now
        return now - self._crowded_at > CALM_SECONDS

    def _take_from(self, line: _Line, build: Build) -> list[Slice]:
        now, slices = time.monotonic(), list[Slice]()
        share = -(-line.rows // self._sharers)
        backlog = share // BACKLOG_SHARE
        room = min(share, build.rows_within(self._batch_target_seconds, self._max_batch, backlog=backlog))
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
