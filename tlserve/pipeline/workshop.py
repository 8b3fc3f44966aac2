"""What passes share in one trainer: the stores, the plugins, and the warm session of each backbone build."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from tlserve.core.backbones import FROM_FILES, Speed
from tlserve.core.errors import BackboneProblem, CorruptState
from tlserve.features import ExtractionResult, Extractor, FeatureStore
from tlserve.ingest import Catalog
from tlserve.plugin_api import Backbone
from tlserve.plugin_host import PluginHost, make_build
from tlserve.release import VersionStore
from tlserve.release.layout import StateLayout
from tlserve.runtime import (
    BackboneSession,
    Device,
    choose_device,
    measure,
    observed,
    read_build_spec,
    record_speeds,
    usable_cores,
)
from tlserve.training import TrainingCancelled

log = logging.getLogger("tlserve.pipeline")

Later = Callable[[Callable[[], bool]], None]
"""Work that can wait. It asks what it is given whether to stop, and then raises TrainingCancelled."""

TIDY_EVERY_SECONDS = 900.0
VALIDATION_FILE = "validation.json"
TUNED = "tuned-"
"""How the build version of a fine-tuned backbone begins; see `tuning.backbone`."""
ONE_IMAGE_STREAM_PER_CORE = 1
"""Session threads for extraction: each core takes its own images all the way, which wastes nothing."""
FEWEST_FOR_A_SPEED = 256
"""Images; fewer pass too quickly for their rate to mean anything."""


class Workshop:
    """Owned by the trainer's one working thread."""

    def __init__(
        self,
        layout: StateLayout,
        catalog: Catalog,
        *,
        device: Literal["auto", "cuda", "cpu"],
        threads: int,
        plugin_folders: Sequence[Path],
    ) -> None:
        self.layout = layout
        self.catalog = catalog
        self.versions = VersionStore(layout.models)
        self.plugins = PluginHost(plugin_folders)
        self._device_wanted = device
        self._device: Device | None = None
        self._threads = threads
        self._builds: dict[str, Path] = {}
        self._benches: dict[str, Bench] = {}
        self._tidied_at = time.monotonic()
        self._later: deque[Later] = deque()

        self.reported: set[tuple[str, int]] = set()
        """Model and number of the versions whose reports were, or will be, completed by this process."""

    def close(self) -> None:
        """Close every cache and session."""
        for bench in self._benches.values():
            bench.close()

    @property
    def device(self) -> Device:
        if self._device is None:
            self._device = choose_device(self._device_wanted)
        return self._device

    def build(self, backbone: str, *, fresh: bool = False) -> Path:
        """The folder of the build of a backbone, made if it is not there yet.

        fresh: look at the plugin and its weights again instead of trusting what this process saw before.
        Raises BackboneNotFound or BackboneProblem.
        """
        if fresh:
            self.plugins.reload()
            self._builds.pop(backbone, None)
        if backbone not in self._builds:
            plugin = self.plugins.plugin_of(backbone)
            self._builds[backbone] = make_build(
                self.plugins.load(backbone), plugin, self.layout.backbones, self.device
            )
        return self._builds[backbone]

    def has_build(self, backbone: str) -> bool:
        """Whether `build` would only look it up: it was made, or found, by this process."""
        return backbone in self._builds

    def measure(self, backbone: Backbone, plugin: str) -> tuple[Speed, ...]:
        """How fast a backbone runs here, as it would serve; kept beside its build, which is made for it.

        Raises BackboneProblem, StoreUnavailable, CorruptState.
        """
        folder = make_build(backbone, plugin, self.layout.backbones, self.device)
        session = BackboneSession.open(folder, self.device, threads=self._threads)
        try:
            speeds = measure(session)
        finally:
            session.close()
        record_speeds(folder, speeds)
        return speeds

    def later(self, work: Later) -> None:
        """Something that nobody waits for, to be done by `catch_up`."""
        self._later.append(work)

    @property
    def is_behind(self) -> bool:
        """Whether `catch_up` has something to do."""
        return bool(self._later)

    def catch_up(self, *, everything: bool = False, stop: Callable[[], bool] = lambda: False) -> None:
        """Do the first piece of work that was put off, or all. What fails is logged and given up.

        stop: whether something more urgent came; what was begun is then put off again.
        """
        while self._later:
            work = self._later.popleft()
            try:
                work(stop)
            except TrainingCancelled:
                self._later.appendleft(work)
                break
            except Exception:
                log.exception("what was put off could not be done")
            if not everything:
                break

    def tidy(self) -> None:
        """Give back the space of cached rows that no image needs any more; seldom, as it reads them all."""
        now = time.monotonic()
        if now - self._tidied_at < TIDY_EVERY_SECONDS:
            return
        self._tidied_at = now
        wanted = self.catalog.digests()
        for bench in self._benches.values():
            bench.store.compact(wanted)
        self.remove_unused_builds()

    def remove_unused_builds(self) -> None:
        """Remove fine-tuned builds, and their rows, that no version names any more."""
        if any(self.layout.tunings.glob("*")):
            return  # a build may just have been made, and its version not yet
        models = self.versions.models()
        used = {self.versions.manifest(m, n).build for m in models for n in self.versions.versions(m)}
        # There is none before the first model has images of two classes.
        for folder in self.layout.backbones.glob("*"):
            if folder.name not in used and _is_tuned(folder):
                bench = self._benches.pop(folder.name, None)
                if bench is not None:
                    bench.close()
                shutil.rmtree(folder, ignore_errors=True)
                shutil.rmtree(self.layout.features(folder.name), ignore_errors=True)

    def bench(self, digest: str) -> Bench:
        """Session and cache of a build that is on disk, opened once."""
        if digest not in self._benches:
            folder = self.layout.backbones / digest
            if not folder.is_dir():
                raise BackboneProblem(
                    f"the build {digest[:12]} is not in {self.layout.backbones} any more; restore it from a "
                    "backup, or make a version of another build live: tlserve promote MODEL N"
                )
            self._benches[digest] = Bench(folder, self.layout.features(digest), self.device, self._threads)
        return self._benches[digest]

    def write_triton(self, model: str, live: int, pinned: Sequence[int]) -> Path:
        """Bring the model's Triton folder in line with LIVE."""
        from tlserve.release.export import write_triton  # needs onnx, and only exports do

        here = self.versions.versions(model)
        numbers = sorted({live, *(number for number in pinned if number in here)})
        versions = [self.versions.load(model, number) for number in numbers]
        folders = {v.manifest.build: self.layout.backbones / v.manifest.build for v in versions}
        return write_triton(
            versions, folders, self.layout.triton, live=live, pinned=tuple(n for n in numbers if n != live)
        )

    def export_file(self, model: str, version: int, out: Path) -> None:
        """Write the whole graph of one version to `out`."""
        from tlserve.release.export import export_graph

        loaded = self.versions.load(model, version)
        export_graph(loaded, self.layout.backbones / loaded.manifest.build, out)


class Bench:
    """One build at work: its spec, its cache, and its session, which opens on first need."""

    def __init__(self, folder: Path, features: Path, device: Device, threads: int) -> None:
        self.spec = read_build_spec(folder)
        self.folder, self.device = folder, device
        self.validation = validation_of(folder)
        """Of a fine-tuned build: digests of the training images that only validated."""
        self.store = FeatureStore(features, row_width=self.spec.row_width)
        self._threads = threads
        self._session: BackboneSession | None = None

    def extractor(self, max_pixels: int) -> Extractor:
        if self._session is None:
            self._session = BackboneSession.open(
                self.folder, self.device, threads=self._threads or ONE_IMAGE_STREAM_PER_CORE
            )
        return Extractor(self._session, self.store, max_pixels=max_pixels)

    def keep_speed(self, result: ExtractionResult) -> None:
        """Note beside the build how fast images went through, if they were enough to tell."""
        if result.n_passed >= FEWEST_FOR_A_SPEED:
            speed = observed(
                FROM_FILES, result.n_passed, result.seconds, device=self.device, threads=usable_cores()
            )
            record_speeds(self.folder, [speed])

    def close(self) -> None:
        self.store.close()
        if self._session is not None:
            self._session.close()


def validation_of(build: Path) -> frozenset[str]:
    """Empty for a build that was not fine-tuned."""
    try:
        return frozenset(json.loads((build / VALIDATION_FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return frozenset()


def _is_tuned(build: Path) -> bool:
    try:
        return read_build_spec(build).build_version.startswith(TUNED)
    except CorruptState:
        return False
