"""The composition root: builds every part, starts them in order, and stops them in the reverse order."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import shutil
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

from tlserve.app.backend import DaemonBackend
from tlserve.app.board import Board
from tlserve.app.comparing import comparison_event
from tlserve.app.events import EventHub
from tlserve.app.exports import Exporter
from tlserve.app.folders import WatchedFolders
from tlserve.app.lock import StateLock
from tlserve.app.pool_samples import pool_samples
from tlserve.app.processes import trainer_command, tuner_command
from tlserve.app.releases import Releases, servable, stored
from tlserve.app.tunings import Tunings
from tlserve.core.errors import StoreUnavailable, Superseded, TlserveError
from tlserve.core.lifecycle import Phase
from tlserve.core.messages import (
    CompareJob,
    Event,
    ImagesPassed,
    PassDone,
    PassJob,
    Progress,
    Recipe,
    SnapshotTaken,
    TrainerReady,
)
from tlserve.core.plan import Depth
from tlserve.ingest import FolderWatcher
from tlserve.observe import Metrics, MetricsServer
from tlserve.release import VersionStore
from tlserve.release.layout import StateLayout
from tlserve.rpc.server import RpcServer
from tlserve.runtime import Device, choose_devices
from tlserve.runtime.allocator import return_large_blocks
from tlserve.schedule import PassRequest, Scheduler, TrainerKeeper
from tlserve.serving import InferencePool, PoolSettings, ServableVersion
from tlserve.settings import Settings
from tlserve.web import HealthServer

log = logging.getLogger("tlserve.app")

TRAINER_GRACE_SECONDS = 5.0
NOTICE_SECONDS = 0.5
"""Between "not ready" and the first refused call."""


@dataclass(frozen=True, slots=True)
class Started:
    """Where a daemon listens, with the ports it really got."""

    grpc_address: str
    http_address: str | None
    metrics_address: str | None
    device: str
    """Which device runs the backbones, and why."""
    models: tuple[str, ...]
    """Models that answer already."""


class Daemon:
    """One running tlserve. Use as `async with Daemon(settings) as daemon`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.layout = StateLayout(settings.state.absolute())
        self.watch = settings.watch.absolute()
        self.hub = EventHub()
        self.board = Board(self.hub.publish)
        self.metrics = Metrics()
        self.store = VersionStore(self.layout.models)
        self._stack = AsyncExitStack()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.folders = WatchedFolders(self.watch, settings)
        self._grpc_address = settings.grpc
        self._ready = False

    async def __aenter__(self) -> Daemon:
        self._loop = asyncio.get_running_loop()
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ready = False
        await self._stack.aclose()

    # -- start, in the order of dependence; the stack stops it all in reverse

    async def _start(self) -> None:
        stack, settings = self._stack, self.settings
        return_large_blocks()
        stack.enter_context(StateLock(self.layout.lock, holder="tlserve serve"))
        self._prepare_folders()
        devices = await asyncio.to_thread(
            choose_devices,
            settings.device,
            tensorrt=settings.tensorrt,
            gpu_memory_mb=settings.gpu_memory_mb,
        )
        await self._start_pool(devices)
        self.releases = Releases(
            self.store,
            self.pool,
            self.board,
            self.metrics,
            export=self._export_later,
            promotion=lambda model: self.recipe(model).promotion,
            keep_versions=lambda model: self.recipe(model).keep_versions,
        )
        self.keeper = TrainerKeeper(trainer_command(settings, self.layout.root), self._heard)
        self.scheduler = Scheduler(
            self.keeper,
            self,
            make_job=self._make_job,
            models=self._look_around,
            reconcile_seconds=settings.reconcile_seconds,
        )
        self.tunings = Tunings(
            self.layout,
            tuner_command(settings, self.layout.root),
            self.board,
            self.scheduler,
            keep=lambda model: (self.watch / model).is_dir(),
        )
        self.exporter = Exporter(self.layout, self.scheduler, self.releases.state)
        await asyncio.to_thread(self._look_around)
        await self.releases.restore()
        stack.push_async_callback(self.keeper.stop, TRAINER_GRACE_SECONDS)
        stack.push_async_callback(self._stop_tasks)
        self.backend = DaemonBackend(self)
        addresses = await self._start_listeners()
        self._ready = True
        self._spawn(self.scheduler.run(), "scheduler")
        self._spawn(self.tunings.run(), "fine-tunings")
        self.tunings.resume()
        await self._start_watcher()
        described = "; ".join(device.describe() for device in devices)
        self.started = Started(*addresses, described, tuple(self.pool.models()))

    def _prepare_folders(self) -> None:
        try:
            self.layout.root.mkdir(parents=True, exist_ok=True)
            self.watch.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(self.layout.exports, ignore_errors=True)
        except OSError as exc:
            raise StoreUnavailable(f"{exc.filename} cannot be created: {exc.strerror}") from exc

    async def _start_pool(self, devices: Sequence[Device]) -> None:
        settings = self.settings
        self.pool = InferencePool(
            self.layout.backbones,
            devices,
            PoolSettings(
                max_batch=settings.max_batch,
                queue_rows=settings.queue_rows,
                threads=settings.threads,
                batch_target_ms=settings.batch_target_ms,
                max_backbones=settings.max_backbones,
                memory_limit_mb=settings.memory_limit_mb,
                load_patience_seconds=settings.load_patience_seconds,
            ),
            max_pixels=settings.max_pixels,
            version_source=self._stored_version,
        )
        await self.pool.start()
        self._stack.push_async_callback(self.pool.close)
        self._stack.push_async_callback(self.pool.drain, settings.drain_seconds)
        self.metrics.add_sampled(functools.partial(pool_samples, self.pool))

    async def _start_listeners(self) -> tuple[str, str | None, str | None]:
        settings = self.settings
        metrics_address = http_address = None
        if settings.metrics:
            metrics_server = MetricsServer(self.metrics, settings.metrics)
            metrics_address = metrics_server.start()
            self._stack.push_async_callback(asyncio.to_thread, metrics_server.stop)
        if settings.http:
            http = HealthServer(
                settings.http,
                server_ready=self.server_ready,
                model_ready=self.backend.model_ready,
                about=lambda: {"tlserve": "predictions are answered over gRPC", "grpc": self._grpc_address},
            )
            http_address = http.start()
            self._stack.push_async_callback(asyncio.to_thread, http.stop)
        rpc = RpcServer(
            self.backend,
            address=settings.grpc,
            max_message_bytes=settings.max_message_mb * 2**20,
            observer=lambda method, status, _: self.metrics.grpc_calls.labels(method, status).inc(),
        )
        self._grpc_address = await rpc.start()
        self._stack.push_async_callback(rpc.stop, settings.drain_seconds)
        self._stack.push_async_callback(self._announce_the_end, rpc)
        # Streams that watch events would keep the server from draining.
        self._stack.callback(self.hub.close)
        return self._grpc_address, http_address, metrics_address

    async def _announce_the_end(self, rpc: RpcServer) -> None:
        """Say "not ready", and go on answering until whoever balances the load has heard it."""
        self._ready = False
        rpc.begin_drain()
        await asyncio.sleep(min(NOTICE_SECONDS, self.settings.drain_seconds))

    async def _start_watcher(self) -> None:
        loop = asyncio.get_running_loop()
        settings = self.settings

        def in_loop(what: Callable[..., None], *args: object) -> None:
            # The watcher's threads may outlive the loop by a moment at shutdown.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(what, *args)

        self.watcher = FolderWatcher(
            self.watch,
            functools.partial(in_loop, self.scheduler.changed),
            settle_seconds=settings.settle_seconds,
            max_wait_seconds=settings.max_wait_seconds,
            polling=settings.polling,
            on_hint=lambda model: in_loop(self._hinted, model),
        )
        # Arming thousands of watches takes its time, and requests are answered already.
        await asyncio.to_thread(self.watcher.start)
        self._stack.push_async_callback(asyncio.to_thread, self.watcher.stop)

    async def _stop_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)

    # -- what the trainer says

    def _heard(self, event: Event) -> None:
        match event:
            case TrainerReady():
                log.debug("trainer ready, process %d", event.pid)
                if self.keeper.restarts:
                    self.metrics.trainer_restarts.inc()
            case Progress():
                self.scheduler.progressed(event)
                if isinstance(self.keeper.job, CompareJob):
                    self.hub.publish(comparison_event(event))
                else:
                    self.board.progressed(event)
            case SnapshotTaken():
                if not event.files_opened:
                    self.scheduler.looked(event.seconds)
                self.metrics.folder_problems.labels(event.model).set(event.n_problems)
                self.board.snapshot(event)
            case ImagesPassed():
                self.metrics.backbone_images.labels(event.model, event.backbone).inc(event.n_images)

    def pass_queued(self, model: str) -> None:
        self.board.queued(model)

    async def pass_ended(self, request: PassRequest, done: PassDone) -> None:
        """A pass is over: take its version live if that is what the judge and the settings say."""
        self.metrics.passes.labels(done.model, done.outcome).inc()
        if done.outcome == "published" and done.version is not None:
            if done.promote:
                done = await self._promote(request, done, done.version)
            else:
                self.board.said(done.model, "version", f"version {done.version}: {done.reason}", done.version)
                await self.releases.retire(done.model)
        await self.releases.heal(done.model)
        self.board.ended(done)
        if done.more and done.outcome != "failed":
            self.scheduler.go_on(done.model)
        elif done.refine:
            self.scheduler.refine(done.model)
        if done.study:
            self.scheduler.study(done.model)
        if done.tune:
            self.tunings.ordered(done.model)

    async def _promote(self, request: PassRequest, done: PassDone, version: int) -> PassDone:
        self.board.swapping(done.model, version)
        try:
            await self.releases.go_live_as_judged(
                done.model,
                version,
                judged_against=done.judged_against,
                reason=done.reason,
                noticed_at=request.noticed_at,
                publishing_seconds=done.timeline.get(Phase.PUBLISHING.value),
            )
        except Superseded as exc:
            # A person decided during the pass. Where the judge still decides, it compares again.
            self.board.said(done.model, "version", str(exc), version)
            self.scheduler.look(done.model)
            return replace(done, reason=str(exc))
        except TlserveError as exc:
            words = f"version {version} could not go live, the old one keeps answering: {exc}"
            return replace(done, outcome="failed", reason=words)
        return done

    # -- what the scheduler asks

    def _make_job(self, request: PassRequest) -> PassJob:
        """On a thread: it reads model.toml. Raises SettingsError."""
        self.folders.read_settings(request.model)
        recipe = self.recipe(request.model)
        is_slow = request.depth is Depth.INSTANT and not recipe.instant
        return PassJob(
            request.job_id,
            request.model,
            str(self.watch / request.model),
            recipe,
            accept_deletions=request.accept_deletions,
            force=request.force,
            noticed_at=request.noticed_at,
            settled_at=request.settled_at,
            touched=None if request.touched is None else tuple(sorted(request.touched)),
            depth=Depth.QUICK if is_slow else request.depth,
            refine=request.refine,
            tuned=request.tuned,
        )

    def _look_around(self) -> Sequence[str]:
        """On a thread: what is under the watch root now; returns the models to look at."""
        # A model whose folder vanished is still looked at: that is how its disappearance is noticed.
        wanted = sorted({*self.folders.look().models, *self.store.models()})
        self._loop.call_soon_threadsafe(self._keep, wanted)
        return wanted

    def _keep(self, models: Sequence[str]) -> None:
        """Forget models of which neither the folder nor the state is left: somebody removed them for good."""
        self.board.keep(models)
        self.releases.keep(models)

    def _hinted(self, model: str) -> None:
        self.board.hinted(model)
        if model not in self.folders.listing.models:
            self._spawn(asyncio.to_thread(self._look_around), "look at the watch root")

    def recipe(self, model: str) -> Recipe:
        """How the model's next pass will train, as far as is known without touching the disk."""
        state = self.releases.state(model)
        return self.folders.recipe(model, state.promotion, state.backbone)

    # -- small parts

    def server_ready(self) -> bool:
        return self._ready

    def _stored_version(self, model: str, number: int) -> ServableVersion:
        return servable(*stored(self.store, model, number))

    def _export_later(self, model: str) -> None:
        self._spawn(self.exporter.follow_live(model), f"export of {model}")
