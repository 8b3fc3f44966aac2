"""The inference pool: front ends ask it for predictions, the scheduler hands it versions.

Event loop on the outside, threads inside: decode threads, executor threads, and a thread for each
load. A predict call walks down once (lease, admit, decode, line, batch) and its answer comes up once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from tlserve.core.errors import BadInput, DeadlinePassed, Draining, TlserveError
from tlserve.core.types import Pixels
from tlserve.runtime import Device
from tlserve.serving.decoding import DecodePool
from tlserve.serving.executors import BatchRun, BatchRunner, Executors
from tlserve.serving.limits import Limits
from tlserve.serving.opening import Opener
from tlserve.serving.queue import RowQueue, Ticket
from tlserve.serving.residency import BuildShelf
from tlserve.serving.servable import PoolSettings, Prediction, ServableVersion, VersionSource
from tlserve.serving.served import Lease, ServedVersion
from tlserve.serving.statistics import PoolCounter, PoolTotals, VersionStatistics
from tlserve.serving.versions import VersionRegistry


class InferencePool:
    """Serves every loaded version of every model on these devices. All methods belong to one event loop.

    start -> (load, swap, lease, predict ...) -> drain -> close.
    """

    def __init__(
        self,
        backbones_dir: Path,
        devices: Sequence[Device],
        settings: PoolSettings | None = None,
        *,
        max_pixels: int,
        version_source: VersionSource | None = None,
    ) -> None:
        """devices: at least one; every backbone has a session on each, and all pull from one queue.

        version_source reads versions asked for by number that are not loaded; None: they are unknown.
        """
        cuda = any(device.is_cuda for device in devices)
        self.settings = settings = (settings or PoolSettings()).resolved(cuda=cuda)
        n_devices = len(devices)
        self._queue = RowQueue(
            limit_rows=settings.queue_rows,
            max_batch=settings.max_batch,
            sharers=n_devices if cuda else n_devices * settings.executors,
            batch_target_seconds=settings.batch_target_ms / 1000,
            n_devices=n_devices,
        )
        self._executors = Executors(
            self._queue, self._make_runner, self._deliver, count=settings.executors, n_devices=n_devices
        )
        self._decoding = DecodePool(settings.decode_workers, max_pixels=max_pixels)
        opener = _opener(devices, settings)
        limits = Limits(settings.max_backbones, settings.memory_limit_mb * 2**20, settings.idle_seconds)
        self._shelf = BuildShelf(backbones_dir, opener, limits, yields=self._loads_yield)
        self._registry = VersionRegistry(
            self._shelf,
            version_source,
            extra_versions=settings.extra_versions,
            patience_seconds=settings.load_patience_seconds,
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
        loop = asyncio.get_running_loop()
        self._decoding.start(loop)
        self._executors.start(loop)

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
        await self._executors.stop()
        await self._decoding.close()
        await self._registry.close()
        await self._shelf.close()

    # -- versions

    async def load(self, version: ServableVersion, *, only_if_room: bool = False) -> ServedVersion:
        """Open (or share) its build, warm it up, fit the head: all before anybody can lease it.

        A new build comes beside those in memory, even beyond the limits, until the swap is done; with
        `only_if_room` it stays cold where they leave no room, and the first lease loads it.
        Give what comes back to `swap` or `discard`. Raises NotLoaded; nothing has changed then, and
        nothing is kept.
        """
        return await self._registry.load(version, only_if_room=only_if_room)

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
        """Whether a lease would be granted: at once, or as soon as its backbone is in memory again.

        False while the backbone's last load failed and the next one is not due yet.
        """
        try:
            served = self._registry.find(model, version)
        except TlserveError:
            return False
        return not (self._draining or served.retired or self._shelf.failing(served.build))

    # -- predictions

    @asynccontextmanager
    async def lease(self, model: str, version: str = "") -> AsyncIterator[Lease]:
        """Hold one version; `""` or `live`, `previous`, or a decimal, which is loaded on demand.

        A backbone that is not in memory is loaded first: BackboneCold when that outlasts
        `load_patience_seconds` (a caller with a deadline stops waiting by cancelling), and the load goes on.
        Raises UnknownModel, UnknownVersion, NotTrained, NotLoaded, BackboneCold or Draining.
        """
        with self._counted_lease():
            served = await self._registry.acquire(model, version)
            try:
                yield Lease(served)
            finally:
                self._registry.release(served)

    @asynccontextmanager
    async def facts(self, model: str, version: str = "") -> AsyncIterator[ServedVersion]:
        """As `lease`, for what is known of a version without its backbone, which may stay cold."""
        with self._counted_lease():
            served = await self._registry.facts(model, version)
            try:
                yield served
            finally:
                served.release()

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
        counts = self._shelf.counts
        return replace(
            self._counter.read(),
            waiting_rows=self._queue.waiting_rows,
            requests_open=self._leases,
            builds_open=len(self._shelf.resident),
            resident_bytes=self._shelf.resident.nbytes,
            loads=counts.loads,
            load_failures=counts.load_failures,
            evictions=self._shelf.resident.evictions,
            cold_waits=counts.cold_waits,
        )

    # -- how

    @contextmanager
    def _counted_lease(self) -> Iterator[None]:
        if self._draining:
            raise Draining
        self._leases += 1
        self._no_leases.clear()
        try:
            yield
        finally:
            self._leases -= 1
            if self._leases == 0:
                self._no_leases.set()

    def _loads_yield(self) -> bool:
        """With more threads, the session's own would be born with the lower priority and keep it."""
        return self._answering and self.settings.threads == 1

    def _make_runner(self, device: int) -> BatchRunner:
        return BatchRunner(self.settings.max_batch, device)

    def _deliver(self, run: BatchRun) -> None:
        """On the loop: answer the requests whose last images just ran, count, and let go of the build."""
        self._counter.ran(run.batch.rows)
        for served in {part.ticket.served for part in run.batch.slices}:
            served.counter.ran()
        for part in run.batch.slices:
            run.count_into(part.ticket)
            part.ticket.settle(part.rows, run.error)
        if run.batch.alone:
            self._shelf.ran_alone(run.batch.build)
        run.batch.build.release()


def _opener(devices: Sequence[Device], settings: PoolSettings) -> Opener:
    return Opener(
        devices=tuple(devices),
        threads=settings.threads,
        wide_threads=settings.wide_threads,
        wide_share=settings.wide_share,
        max_batch=settings.max_batch,
        batch_target_seconds=settings.batch_target_ms / 1000,
    )


def check_images(images: Sequence[bytes] | Pixels) -> None:
    """Raises BadInput for what no decoder need look at."""
    if len(images) == 0:
        raise BadInput("a request needs at least one image")
    if isinstance(images, np.ndarray) and (
        images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape
    ):
        raise BadInput(f"pixels must be uint8 [N, H, W, 3], not {images.dtype} {list(images.shape)}")
