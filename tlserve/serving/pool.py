"""The inference pool: front ends ask it for predictions, the scheduler hands it versions.

Event loop on the outside, threads inside: decode threads, executor threads, and a thread for each
load. A predict call walks down once (lease, admit, decode, line, batch) and its answer comes up once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from tlserve.core.errors import BadInput, DeadlinePassed, Draining, TlserveError
from tlserve.core.types import Pixels
from tlserve.runtime import BackboneSession, Device
from tlserve.serving.builds import BuildShelf, open_warm, yield_to_answers
from tlserve.serving.decoding import DecodePool
from tlserve.serving.executors import BatchRun, BatchRunner, Executors
from tlserve.serving.queue import RowQueue, Ticket
from tlserve.serving.servable import PoolSettings, Prediction, ServableVersion, VersionSource
from tlserve.serving.served import Lease, ServedVersion
from tlserve.serving.statistics import PoolCounter, PoolTotals, VersionStatistics
from tlserve.serving.versions import VersionRegistry


class InferencePool:
    """Serves every loaded version of every model on one device. All methods belong to one event loop.

    start -> (load, swap, lease, predict ...) -> drain -> close.
    """

    def __init__(
        self,
        backbones_dir: Path,
        device: Device,
        settings: PoolSettings | None = None,
        *,
        max_pixels: int,
        version_source: VersionSource | None = None,
    ) -> None:
        """`version_source` reads versions asked for by number that are not loaded; None: they are unknown."""
        self._device = device
        self.settings = (settings or PoolSettings()).resolved(cuda=device.is_cuda)
        share = 1 if device.is_cuda else self.settings.executors
        self._queue = RowQueue(
            limit_rows=self.settings.queue_rows, max_batch=self.settings.max_batch, sharers=share
        )
        self._executors = Executors(
            self._queue, self._make_runner, self._deliver, count=self.settings.executors
        )
        self._decoding = DecodePool(self.settings.decode_workers, max_pixels=max_pixels)
        self._shelf = BuildShelf(self._open_build, backbones_dir)
        self._registry = VersionRegistry(
            self._shelf, version_source, extra_versions=self.settings.extra_versions
        )
        self._counter = PoolCounter()
        self._draining = False
        self._answering = False
        self._leases = 0
        self._no_leases = asyncio.Event()
        self._no_leases.set()

    # -- life

    async def start(self) -> None:
        """Start the executors; predictions may be asked from now on."""
        self._executors.start(asyncio.get_running_loop())

    async def drain(self, seconds: float) -> bool:
        """Refuse new leases (Draining) and wait for those under way; False if some outlast `seconds`."""
        self._draining = True
        try:
            async with asyncio.timeout(seconds):
                await self._no_leases.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Stop queue, executors, decoding, versions, builds, in this order. Who still waits gets Draining."""
        self._draining = True
        for ticket in self._queue.close():
            if not ticket.answered.done():
                ticket.answered.set_exception(Draining())
        await asyncio.to_thread(self._executors.join)
        await asyncio.to_thread(self._decoding.close)
        await self._registry.close()
        await self._shelf.close()

    # -- versions

    async def load(self, version: ServableVersion) -> ServedVersion:
        """Open (or share) its build, warm it up, fit the head: all before anybody can lease it.

        Give what comes back to `swap` or `discard`. Raises NotLoaded; nothing has changed then, and
        nothing is kept.
        """
        return await self._registry.load(version)

    async def swap(self, served: ServedVersion, *, previous: int | None = None) -> None:
        """Make it the one that answers by default, from the next lease on.

        `previous`: what that name means from now on, where it is not simply the formerly live version.
        The version before retires when its last lease ends.
        """
        self._registry.swap(served, previous=previous)
        self._answering = True

    def discard(self, served: ServedVersion) -> None:
        """Unload what `load` gave and nobody will swap in."""
        self._registry.discard(served)

    def forget(self, model: str) -> None:
        """Stop serving a model; requests under way finish."""
        self._registry.forget(model)

    def models(self) -> tuple[str, ...]:
        """Models that answer now."""
        return self._registry.models()

    def serves(self, model: str) -> bool:
        """Whether `model` answers now."""
        return self._registry.serves(model)

    def versions(self, model: str) -> tuple[int, ...]:
        """Numbers of the versions of `model` that are loaded now, ascending."""
        return tuple(served.number for served in self._registry.loaded(model))

    def served(self, model: str, version: str = "") -> ServedVersion:
        """A loaded version's facts. Raises UnknownModel, NotTrained, or UnknownVersion when not loaded."""
        return self._registry.find(model, version)

    def ready(self, model: str, version: str = "") -> bool:
        """Whether a lease would be granted at once."""
        try:
            return not self._draining and not self._registry.find(model, version).retired
        except TlserveError:
            return False

    # -- predictions

    @asynccontextmanager
    async def lease(self, model: str, version: str = "") -> AsyncIterator[Lease]:
        """Hold one version; `""` or `live`, `previous`, or a decimal, which is loaded on demand.

        Raises UnknownModel, UnknownVersion, NotTrained, NotLoaded or Draining.
        """
        if self._draining:
            raise Draining
        self._leases += 1
        self._no_leases.clear()
        try:
            served = await self._registry.acquire(model, version)
            try:
                yield Lease(served)
            finally:
                served.release()
        finally:
            self._leases -= 1
            if self._leases == 0:
                self._no_leases.set()

    async def predict(
        self, lease: Lease, images: Sequence[bytes] | Pixels, *, deadline: float | None = None
    ) -> Prediction:
        """Answer encoded images, or pixels (N, H, W, 3) uint8 RGB of any size, by the leased version.

        deadline: on the event loop's clock. Cancelling drops whatever is not running yet.
        Raises BadImage, BadInput, QueueFull, DeadlinePassed, Draining or Unavailable.
        """
        started = time.perf_counter_ns()
        try:
            check_images(images)
            ticket = await self._answered(lease.served, images, deadline)
        except BaseException as exc:
            self._counter.failed(type(exc).__name__)
            lease.served.counter.failed(time.perf_counter_ns() - started)
            raise
        self._counter.answered(ticket.rows)
        lease.served.counter.answered(ticket.rows, time.perf_counter_ns() - started, ticket.stages)
        return Prediction(
            model=lease.model,
            version=lease.version,
            labels=lease.labels,
            probabilities=ticket.probabilities,
            features=ticket.features,
            novelty=ticket.novelty,
        )

    async def _answered(
        self, served: ServedVersion, images: Sequence[bytes] | Pixels, deadline: float | None
    ) -> Ticket:
        loop, ticket = asyncio.get_running_loop(), None
        if deadline is not None and deadline <= loop.time():
            raise DeadlinePassed("the deadline had passed before the request was admitted")
        self._queue.reserve(len(images))
        try:
            async with asyncio.timeout_at(deadline):
                admitted = time.perf_counter_ns()
                prepared = await self._decoding.prepare(images, served.image, deadline)
                ticket = Ticket.of(served, prepared, deadline, loop.create_future())
                ticket.stages.input_ns = time.perf_counter_ns() - admitted
                self._queue.put(ticket)
                await ticket.answered
        except TimeoutError as exc:
            raise DeadlinePassed("the deadline passed before the answer was ready") from exc
        finally:
            if ticket is None:
                self._queue.give_back(len(images))
            else:
                self._queue.drop(ticket)
        return ticket

    # -- what is counted

    def statistics(self, model: str = "", version: str = "") -> tuple[VersionStatistics, ...]:
        """Of one loaded version, of all of a model (empty version), or of all there are (empty model)."""
        if model and version:
            return (self._registry.find(model, version).counter.read(),)
        return tuple(served.counter.read() for served in self._registry.loaded(model))

    def totals(self) -> PoolTotals:
        return self._counter.read(
            waiting_rows=self._queue.waiting_rows,
            requests_open=self._leases,
            builds_open=len(self._shelf),
        )

    # -- how

    def _open_build(self, folder: Path) -> BackboneSession:
        """On a thread of its own."""
        if self._answering and self.settings.threads == 1:
            # With more, the session's own threads would be born with the lower priority and keep it.
            yield_to_answers()
        sizes = (1, self.settings.max_batch)
        return open_warm(folder, self._device, threads=self.settings.threads, batch_sizes=sizes)

    def _make_runner(self) -> BatchRunner:
        return BatchRunner(self.settings.max_batch, fixed_sizes=bool(self.settings.fixed_sizes))

    def _deliver(self, run: BatchRun) -> None:
        """On the loop: answer the requests whose last images just ran, count, and let go of the build."""
        self._counter.ran(run.batch.rows)
        for served in {part.ticket.served for part in run.batch.slices}:
            served.counter.ran()
        for part in run.batch.slices:
            run.count_into(part.ticket)
            part.ticket.settle(part.rows, run.error)
        run.batch.build.release()


def check_images(images: Sequence[bytes] | Pixels) -> None:
    """Raises BadInput for what no decoder need look at."""
    if len(images) == 0:
        raise BadInput("a request needs at least one image")
    if isinstance(images, np.ndarray) and (
        images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape
    ):
        raise BadInput(f"pixels must be uint8 [N, H, W, 3], not {images.dtype} {list(images.shape)}")
