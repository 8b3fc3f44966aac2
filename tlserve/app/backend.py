"""The daemon as its front ends see it: `rpc.backend.Backend` over the pool, the releases and the board."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from tlserve.app.backbones import backbone_description, backbone_lines
from tlserve.app.comparing import comparison
from tlserve.app.labelling import add_image
from tlserve.app.summaries import statistics_of, summary_of, unusable_folder
from tlserve.core.backbones import BackboneDescription
from tlserve.core.errors import (
    BadInput,
    DeadlinePassed,
    NotLoaded,
    NotReady,
    NotTrained,
    TlserveError,
    TrainerFailed,
    UnknownModel,
    UnknownVersion,
)
from tlserve.core.lifecycle import Promotion
from tlserve.core.messages import (
    BackboneDescribed,
    BackboneEntry,
    BackbonesListed,
    Compared,
    CompareJob,
    DescribeBackboneJob,
    ListBackbonesJob,
    ReportJob,
    ReportWritten,
)
from tlserve.core.types import Pixels, check_model_name
from tlserve.rpc.backend import (
    AddedImage,
    Answer,
    BackboneLine,
    Comparison,
    ModelEvent,
    ModelStatistics,
    ModelSummary,
    ServedModelInfo,
    VersionLine,
)

if TYPE_CHECKING:
    from tlserve.app.daemon import Daemon

BACKBONES_PATIENCE_SECONDS = 10.0


class DaemonBackend:
    """Implements `rpc.backend.Backend`."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    # -- predictions

    async def predict(
        self, model: str, version: str, images: Sequence[bytes] | Pixels, *, timeout_seconds: float | None
    ) -> Answer:
        daemon = self._daemon
        loop = asyncio.get_running_loop()
        began = loop.time()
        deadline = None if timeout_seconds is None else began + timeout_seconds
        result = "error"
        try:
            self._check_trained(model)
            # An old version may have to be loaded first; that counts against the deadline too.
            async with asyncio.timeout_at(deadline), daemon.pool.lease(model, version) as lease:
                prediction = await daemon.pool.predict(lease, images, deadline=deadline)
            result = "ok"
        except TimeoutError as exc:
            result = DeadlinePassed.__name__
            raise DeadlinePassed("the deadline passed before the answer was ready") from exc
        except TlserveError as exc:
            result = type(exc).__name__
            raise
        except asyncio.CancelledError:
            result = "cancelled"
            raise
        finally:
            # An unknown name must not become a time series of its own.
            label = model if daemon.pool.serves(model) else ""
            daemon.metrics.requests.labels(label, result).inc()
            daemon.metrics.request_seconds.labels(label).observe(loop.time() - began)
        return Answer(
            model=model,
            version=prediction.version,
            labels=prediction.labels,
            probabilities=prediction.probabilities,
            features=prediction.features,
            novelty=prediction.novelty,
            unknown=prediction.novelty > np.float32(daemon.folders.unknown_threshold(model)),
        )

    def server_ready(self) -> bool:
        return self._daemon.server_ready()

    def model_ready(self, model: str, version: str) -> bool:
        if not self._daemon.server_ready() or not self._daemon.pool.serves(model):
            return False
        if version in ("", "live"):
            return self._daemon.pool.ready(model)
        if version == "previous":
            return self._daemon.releases.state(model).previous is not None
        # Versions that are not in memory are loaded when they are asked for.
        return version.isdecimal() and int(version) in self._daemon.store.versions(model)

    async def served_model(self, model: str, version: str) -> ServedModelInfo:
        daemon = self._daemon
        self._check_trained(model)
        async with daemon.pool.facts(model, version) as served:
            return ServedModelInfo(
                model=model,
                version=served.number,
                versions=await daemon.releases.numbers(model),
                labels=served.labels,
                n_features=served.n_features,
                height=served.image.height,
                width=served.image.width,
                max_batch=daemon.settings.max_batch,
            )

    def statistics(self, model: str, version: str) -> Sequence[ModelStatistics]:
        if model:
            self._check_trained(model)
        if version and not self.model_ready(model, version):
            raise UnknownVersion(model, version, tuple(self._daemon.store.versions(model)))
        number = self._daemon.releases.state(model).previous if version == "previous" else version
        counted = [statistics_of(entry) for entry in self._daemon.pool.statistics(model)]
        if version in ("", "live"):
            return counted
        here = [entry for entry in counted if entry.version == int(number or 0)]
        # Counted since it was loaded; one that nobody asked for yet counts nothing.
        return here or [ModelStatistics(model, int(number or 0), 0, 0, 0)]

    # -- models and versions

    def list_models(self) -> Sequence[ModelSummary]:
        return [summary_of(self._daemon, model) for model in self._known()] + [
            unusable_folder(problem) for problem in self._daemon.folders.listing.problems
        ]

    def get_model(self, model: str) -> ModelSummary:
        known = self._known()
        if model in known:
            return summary_of(self._daemon, model)
        for problem in self._daemon.folders.listing.problems:
            if problem.where == model:
                return unusable_folder(problem)
        raise UnknownModel(model, tuple(known))

    def _known(self) -> list[str]:
        daemon = self._daemon
        return sorted({*daemon.folders.listing.models, *daemon.releases.models(), *daemon.board.known()})

    async def list_versions(self, model: str) -> Sequence[VersionLine]:
        self.get_model(model)
        rows = await asyncio.to_thread(self._daemon.store.rows, model)
        return [VersionLine(**asdict(row)) for row in rows]

    async def get_report(self, model: str, version: str) -> Mapping[str, Any]:
        number = await self._number(model, version)
        return await asyncio.to_thread(self._daemon.store.report, model, number)

    async def report_page(self, model: str, version: str) -> str:
        daemon = self._daemon
        number = await self._number(model, version)
        page = await asyncio.to_thread(daemon.store.page, model, number)
        if page is None:
            job = ReportJob(uuid.uuid4().hex, model, number, str(daemon.watch / model))
            done = await daemon.scheduler.errand(job)
            assert isinstance(done, ReportWritten)
            if done.error is not None:
                raise TrainerFailed(f"model {model!r} version {number}: no page was written: {done.error}")
            page = await asyncio.to_thread(daemon.store.page, model, number)
        if page is None:
            raise NotReady(f"model {model!r} version {number} has no page, although it was just written")
        return page

    def watch(self, model: str) -> AsyncIterator[ModelEvent]:
        if model:
            self.get_model(model)
        return self._daemon.hub.watch(model)

    # -- what a person decides

    async def retrain(self, model: str, *, accept_deletions: bool) -> str:
        self.get_model(check_model_name(model))
        return self._daemon.scheduler.retrain(model, accept_deletions=accept_deletions)

    async def promote(self, model: str, version: str) -> VersionLine:
        self.get_model(model)
        # A number that is not there is noticed where it is read.
        is_number = version.isascii() and version.isdecimal()
        number = int(version) if is_number else await self._number(model, version)
        state = await self._daemon.releases.go_live(model, number, reason="promoted by a person")
        return await self._line(model, state.live)

    async def rollback(self, model: str) -> VersionLine:
        # Not "is it served": one rolls back, too, from a version that cannot be loaded.
        self.get_model(model)
        state = await self._daemon.releases.roll_back(model)
        return await self._line(model, state.live)

    async def pin(self, model: str, version: str, *, pinned: bool) -> VersionLine:
        number = await self._number(model, version)
        await self._daemon.releases.pin(model, number, pinned_=pinned)
        return await self._line(model, number)

    async def set_promotion(self, model: str, mode: str) -> ModelSummary:
        try:
            promotion = Promotion(mode) if mode else None
        except ValueError as exc:
            raise BadInput(f"promotion {mode!r} is none of auto, manual, frozen") from exc
        self.get_model(model)
        await self._daemon.releases.set_promotion(model, promotion)
        # A candidate may have waited for just this.
        self._daemon.scheduler.look(model, asked=True)
        return summary_of(self._daemon, model)

    async def set_backbone(self, model: str, backbone: str) -> ModelSummary:
        self.get_model(model)
        if backbone:
            await self.get_backbone(backbone, measure=False)
        await self._daemon.releases.set_backbone(model, backbone or None)
        self._daemon.scheduler.look(model, asked=True)
        return summary_of(self._daemon, model)

    async def compare(self, model: str, backbones: Sequence[str]) -> Comparison:
        daemon = self._daemon
        self.get_model(model)
        await asyncio.to_thread(daemon.folders.read_settings, model)
        folder, recipe = str(daemon.watch / model), daemon.recipe(model)
        job = CompareJob(uuid.uuid4().hex, model, folder, recipe, tuple(backbones))
        told = await daemon.scheduler.background_errand(job)
        assert isinstance(told, Compared)
        return comparison(told)

    async def add_image(self, model: str, label: str, name: str, data: bytes) -> AddedImage:
        return await asyncio.to_thread(
            add_image,
            self._daemon.watch,
            model,
            label,
            name,
            data,
            max_pixels=self._daemon.settings.max_pixels,
        )

    async def export(self, model: str, version: str) -> bytes:
        return await self._daemon.exporter.graph(model, await self._number(model, version))

    async def list_backbones(self) -> Sequence[BackboneLine]:
        """As the plugins say now; as they last said where the trainer is busy with a long pass."""
        catalogue = self._daemon.layout.catalogue
        patience = BACKBONES_PATIENCE_SECONDS if catalogue.is_file() else None
        try:
            async with asyncio.timeout(patience):
                job = ListBackbonesJob(uuid.uuid4().hex)
                done = await self._daemon.scheduler.errand(job, patient=catalogue.is_file())
            assert isinstance(done, BackbonesListed)
            entries = done.backbones
        except TimeoutError:
            text = await asyncio.to_thread(catalogue.read_text)
            entries = tuple(BackboneEntry(**entry) for entry in json.loads(text))
        return await asyncio.to_thread(backbone_lines, entries, self._daemon.layout.backbones)

    async def get_backbone(self, name: str, *, measure: bool) -> BackboneDescription:
        precision = self._daemon.settings.precision
        job = DescribeBackboneJob(uuid.uuid4().hex, name, measure, precision)
        told = await self._daemon.scheduler.errand(job)
        assert isinstance(told, BackboneDescribed)
        return await asyncio.to_thread(backbone_description, told, self._daemon.layout.backbones, precision)

    # -- parts

    def _check_trained(self, model: str) -> None:
        """Raises UnknownModel, or NotTrained with what the model waits for."""
        daemon = self._daemon
        if daemon.pool.serves(model):
            return
        summary = self.get_model(model)
        if summary.live is not None:
            raise NotLoaded(model, summary.live, summary.message)
        raise NotTrained(model, summary.message)

    async def _number(self, model: str, version: str) -> int:
        self.get_model(model)
        return await self._daemon.releases.number(model, version)

    async def _line(self, model: str, version: int | None) -> VersionLine:
        row = None
        if version is not None:
            row = await asyncio.to_thread(self._daemon.store.row, model, version)
        if row is not None:
            return VersionLine(**asdict(row))
        raise NotReady(f"model {model!r} version {version} has just been retired")
