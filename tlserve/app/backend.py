"""The daemon as its front ends see it: `rpc.backend.Backend` over the pool, the releases and the board."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlserve.core.errors import (
    BadInput,
    CorruptState,
    DeadlinePassed,
    NotLoaded,
    NotReady,
    NotTrained,
    StoreUnavailable,
    TlserveError,
    UnknownModel,
    UnknownVersion,
)
from tlserve.core.lifecycle import Phase, Promotion
from tlserve.core.messages import BackbonesListed, Exported, ExportFileJob, ListBackbonesJob
from tlserve.core.types import Pixels, check_model_name
from tlserve.images import examine
from tlserve.ingest.names import is_ignored, is_set_aside
from tlserve.rpc.backend import (
    AddedImage,
    Answer,
    BackboneLine,
    Duration,
    ModelEvent,
    ModelStatistics,
    ModelSummary,
    ServedModelInfo,
    VersionLine,
)
from tlserve.serving import VersionStatistics

if TYPE_CHECKING:
    from tlserve.app.daemon import Daemon

IMAGE_SUFFIXES = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "GIF": ".gif",
    "TIFF": ".tif",
}
LONGEST_FILE_STEM = 100
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
            unknown=prediction.novelty > np.float32(daemon.unknown_threshold(model)),
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
        async with daemon.pool.lease(model, version) as lease:
            return ServedModelInfo(
                model=model,
                version=lease.version,
                versions=await daemon.releases.numbers(model),
                labels=lease.labels,
                n_features=lease.served.n_features,
                height=lease.image.height,
                width=lease.image.width,
                max_batch=daemon.settings.max_batch,
            )

    def statistics(self, model: str, version: str) -> Sequence[ModelStatistics]:
        if model:
            self._check_trained(model)
        if version and not self.model_ready(model, version):
            raise UnknownVersion(model, version, tuple(self._daemon.store.versions(model)))
        number = self._daemon.releases.state(model).previous if version == "previous" else version
        counted = [_statistics(entry) for entry in self._daemon.pool.statistics(model)]
        if version in ("", "live"):
            return counted
        here = [entry for entry in counted if entry.version == int(number or 0)]
        # Counted since it was loaded; one that nobody asked for yet counts nothing.
        return here or [ModelStatistics(model, int(number or 0), 0, 0, 0)]

    # -- models and versions

    def list_models(self) -> Sequence[ModelSummary]:
        return [self._summary(model) for model in self._known()] + [
            _unusable_folder(problem.where, problem.reason) for problem in self._daemon.folders.problems
        ]

    def get_model(self, model: str) -> ModelSummary:
        known = self._known()
        if model in known:
            return self._summary(model)
        for problem in self._daemon.folders.problems:
            if problem.where == model:
                return _unusable_folder(problem.where, problem.reason)
        raise UnknownModel(model, tuple(known))

    def _known(self) -> list[str]:
        daemon = self._daemon
        return sorted({*daemon.folders.models, *daemon.releases.models(), *daemon.board.known()})

    async def list_versions(self, model: str) -> Sequence[VersionLine]:
        self.get_model(model)
        rows = await asyncio.to_thread(self._daemon.store.rows, model)
        return [VersionLine(**asdict(row)) for row in rows]

    async def get_report(self, model: str, version: str) -> Mapping[str, Any]:
        number = await self._number(model, version)
        return await asyncio.to_thread(self._daemon.store.report, model, number)

    def watch(self, model: str) -> AsyncIterator[ModelEvent]:
        if model:
            self.get_model(model)
        return self._daemon.hub.watch(model)

    # -- what a person decides

    async def retrain(self, model: str, *, accept_deletions: bool) -> str:
        self.get_model(check_model_name(model))
        return self._daemon.scheduler.retrain(model, accept_deletions=accept_deletions)

    async def promote(self, model: str, version: str) -> VersionLine:
        number = await self._number(model, version)
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
        self._daemon.scheduler.look(model)
        return self._summary(model)

    async def add_image(self, model: str, label: str, name: str, data: bytes) -> AddedImage:
        check_model_name(model)
        _check_label(label)
        examination = await asyncio.to_thread(examine, data, self._daemon.settings.max_pixels)
        file_name = _file_name(name, data, IMAGE_SUFFIXES.get(examination.format, ".img"))
        folder = self._daemon.watch / model / label
        return await asyncio.to_thread(_write_image, self._daemon.watch, folder, file_name, data)

    async def export(self, model: str, version: str) -> bytes:
        number = await self._number(model, version)
        daemon = self._daemon
        ready = daemon.layout.triton / model / str(number) / "model.onnx"
        if ready.is_file():
            return await asyncio.to_thread(ready.read_bytes)
        out = daemon.layout.exports / f"{uuid.uuid4().hex}.onnx"
        await asyncio.to_thread(out.parent.mkdir, parents=True, exist_ok=True)
        job = ExportFileJob(uuid.uuid4().hex, model, number, str(out))
        # Whoever asked may give up; the file goes all the same, when the trainer is done with it.
        return await asyncio.shield(asyncio.ensure_future(self._exported(job, out)))

    async def _exported(self, job: ExportFileJob, out: Path) -> bytes:
        try:
            done = await self._daemon.scheduler.errand(job)
            assert isinstance(done, Exported)
            if done.error:
                raise CorruptState(
                    f"model {job.model!r} version {job.version} cannot be exported: {done.error}"
                )
            return await asyncio.to_thread(out.read_bytes)
        finally:
            await asyncio.to_thread(out.unlink, missing_ok=True)

    async def list_backbones(self) -> Sequence[BackboneLine]:
        """As the plugins say now; as they last said where the trainer is busy with a long pass."""
        catalogue = self._daemon.layout.catalogue
        patience = BACKBONES_PATIENCE_SECONDS if catalogue.is_file() else None
        try:
            async with asyncio.timeout(patience):
                done = await self._daemon.scheduler.errand(ListBackbonesJob(uuid.uuid4().hex))
        except TimeoutError:
            return [
                BackboneLine(**entry) for entry in json.loads(await asyncio.to_thread(catalogue.read_text))
            ]
        assert isinstance(done, BackbonesListed)
        return [BackboneLine(e.name, e.plugin, e.detail, e.error) for e in done.backbones]

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
        for line in await self.list_versions(model):
            if line.version == version:
                return line
        raise NotReady(f"model {model!r} version {version} has just been retired")

    def _summary(self, model: str) -> ModelSummary:
        daemon = self._daemon
        now = daemon.board.now(model)
        state = daemon.releases.state(model)
        live = daemon.releases.live_version(model)
        manifest = live.manifest if live is not None else None
        message = daemon.releases.failures.get(model, now.message)
        return ModelSummary(
            model=model,
            phase=now.phase.value,
            ready=self.model_ready(model, ""),
            live=state.live,
            previous=state.previous,
            promotion=daemon.promotion(model).value,
            images=now.n_images or (manifest.n_images if manifest else 0),
            counts=now.counts or (manifest.counts if manifest else {}),
            accuracy=manifest.accuracy if manifest else None,
            accuracy_low=manifest.accuracy_low if manifest else None,
            accuracy_high=manifest.accuracy_high if manifest else None,
            backbone=manifest.backbone if manifest else daemon.recipe(model).backbone,
            message=message,
            problems=now.problems,
            n_problems=now.n_problems,
            done=now.done,
            total=now.total,
            per_second=now.per_second,
            seconds_left=now.seconds_left,
        )


def _statistics(counted: VersionStatistics) -> ModelStatistics:
    stages = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
    durations = {stage: getattr(counted, stage) for stage in stages}
    return ModelStatistics(
        model=counted.model,
        version=counted.version,
        last_inference_ms=counted.last_inference_ms,
        inference_count=counted.inference_count,
        execution_count=counted.execution_count,
        **{stage: Duration(taken.count, taken.total_ns) for stage, taken in durations.items()},
    )


def _unusable_folder(name: str, reason: str) -> ModelSummary:
    return ModelSummary(
        model=name,
        phase=Phase.WAITING.value,
        ready=False,
        live=None,
        previous=None,
        promotion="",
        images=0,
        counts={},
        accuracy=None,
        accuracy_low=None,
        accuracy_high=None,
        backbone="",
        message=reason,
    )


def _check_label(label: str) -> None:
    """One path component that the watcher will read as a class."""
    if label in ("", ".", "..") or "/" in label or "\0" in label or len(label.encode()) > 255:
        raise BadInput(
            f"label {label!r} cannot be a folder name: one path component of 1 to 255 bytes is needed"
        )
    if is_set_aside(label) or is_ignored(label):
        raise BadInput(f"label {label!r} is a name that the watcher passes over; choose another")


def _file_name(name: str, data: bytes, suffix: str) -> str:
    """A safe file name: the caller's own where it gives one, else one made of the content."""
    given = Path(name.replace("\\", "/")).name
    stem = re.sub(r"[^\w.-]+", "_", Path(given).stem).strip("._")[:LONGEST_FILE_STEM]
    own_suffix = Path(given).suffix if re.fullmatch(r"\.\w{1,5}", Path(given).suffix) else suffix
    file_name = (stem or hashlib.sha256(data).hexdigest()[:16]) + own_suffix
    return stem + suffix if is_ignored(file_name) else file_name


def _write_image(watch: Path, folder: Path, name: str, data: bytes) -> AddedImage:
    """Write under a hidden name, then link it into place: the watcher never sees half a file."""
    digest = hashlib.sha256(data).hexdigest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / name
        for attempt in range(1, 1000):
            if not target.exists():
                break
            if target.read_bytes() == data:
                return AddedImage(str(target.relative_to(watch)), digest, already_there=True)
            target = folder / f"{Path(name).stem}-{attempt}{Path(name).suffix}"
        hidden = folder / f".{uuid.uuid4().hex}.part"
        try:
            with hidden.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.link(hidden, target)  # fails, rather than overwrite, when somebody was quicker
        finally:
            hidden.unlink(missing_ok=True)
    except OSError as exc:
        raise StoreUnavailable(f"the image was not saved in {folder}: {exc.strerror}; try again") from exc
    return AddedImage(str(target.relative_to(watch)), digest, already_there=False)
