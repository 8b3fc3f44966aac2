"""What passes share in one trainer: the stores, the plugins, and the warm session of each backbone build."""

from __future__ import annotations

import logging
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from tlserve.core.backbones import Speed
from tlserve.core.errors import BackboneProblem, CorruptState
from tlserve.core.precision import Precision, PrecisionTrial
from tlserve.ingest import Catalog, FolderMemory
from tlserve.pipeline.bench import Bench
from tlserve.pipeline.fast import FastHeads
from tlserve.pipeline.options import GRAM_CACHE_MB
from tlserve.plugin_host import PluginHost, is_whole, make_build
from tlserve.release import VersionStore
from tlserve.release.layout import StateLayout
from tlserve.runtime import (
    Device,
    build_digest,
    choose_device,
    measure_build,
    read_build_spec,
    record_speeds,
)
from tlserve.training import TrainingCancelled

log = logging.getLogger("tlserve.pipeline")

Later = Callable[[Callable[[], bool]], None]
"""Work that can wait. It asks what it is given whether to stop, and then raises TrainingCancelled."""

TIDY_EVERY_SECONDS = 900.0
TUNED = "tuned-"
"""How the build version of a fine-tuned backbone begins; see `tuning.backbone`."""


class Workshop:
    """Owned by the trainer's one working thread."""

    def __init__(
        self,
        layout: StateLayout,
        catalog: Catalog,
        *,
        device: str,
        threads: int,
        plugin_folders: Sequence[Path],
        gram_cache_mb: int = GRAM_CACHE_MB,
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

        self._memories: dict[str, tuple[Path, FolderMemory]] = {}
        self.fast_heads = FastHeads(gram_cache_mb * 2**20)
        self.filled: dict[tuple[str, str], str] = {}
        """By model and build: the snapshot whose every image had its row when a pass last ended well."""
        self.reported: set[tuple[str, int]] = set()
        """Model and number of the versions whose reports were, or will be, completed by this process."""

    def close(self) -> None:
        """Close every cache and session."""
        for bench in self._benches.values():
            bench.close()

    def memory(self, model: str, folder: Path) -> FolderMemory:
        """What is remembered of a model's folder since the last look at it."""
        if model not in self._memories or self._memories[model][0] != folder:
            self._memories[model] = folder, FolderMemory()
        return self._memories[model][1]

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
        if backbone not in self._builds or not is_whole(self._builds[backbone]):
            plugin = self.plugins.plugin_of(backbone)
            self._builds[backbone] = make_build(
                self.plugins.load(backbone), plugin, self.layout.backbones, self.device
            )
        return self._builds[backbone]

    def has_build(self, backbone: str) -> bool:
        """Whether `build` would only look it up: it was made, or found, by this process."""
        return backbone in self._builds

    def decided(self, plain: Path) -> Precision:
        """What was decided on for the backbone whose fp32 build this is; fp32 where nothing was yet."""
        trial = read_build_spec(plain).trial
        return Precision.FP32 if trial is None else Precision(trial.chosen)

    def lost_trial(self, plain: Path) -> PrecisionTrial | None:
        """What was decided before this fp32 build was lost and made again: what was chosen then knows."""
        for precision in (Precision.INT8, Precision.FP16):
            folder = self.reduced(plain, precision)
            trial = None if folder is None else read_build_spec(folder).trial
            if trial is not None and trial.chosen == precision:
                return trial
        return None

    def reduced(self, plain: Path, precision: Precision) -> Path | None:
        """The folder of this fp32 build's sibling at another precision; None where there is none."""
        folder = _sibling(plain, precision)
        return folder if folder != plain and is_whole(folder) else None

    def settled(self, backbone: str, precision: Precision) -> Path:
        """The folder of the build that is learnt on at this setting: fp32 while there is no other.

        Raises BackboneNotFound or BackboneProblem.
        """
        plain = self.build(backbone)
        wanted = self.decided(plain) if precision is Precision.AUTO else precision
        return self.reduced(plain, wanted) or plain

    def forget_reduced(self, plain: Path, precision: Precision) -> None:
        """Remove the sibling of an fp32 build and its rows, unless a version is on it."""
        folder = _sibling(plain, precision)
        if folder != plain and folder.name not in self._used():
            self._remove(folder)

    def measure(self, folder: Path) -> tuple[Speed, ...]:
        """How fast a build runs here, as it would serve; kept beside it.

        Raises BackboneProblem, StoreUnavailable, CorruptState.
        """
        speeds = measure_build(folder, self.device, threads=self._threads)
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

    def tidy(self, *, now: bool = False) -> None:
        """Give back the space of cached rows that no image needs any more; seldom, as it reads them all."""
        at = time.monotonic()
        if not now and at - self._tidied_at < TIDY_EVERY_SECONDS:
            return
        self._tidied_at = at
        self._forget_models()
        wanted = self.catalog.digests()
        for bench in self._benches.values():
            bench.store.compact(wanted)
        self.remove_unused_builds()

    def _forget_models(self) -> None:
        """Let go of what is remembered of models whose folders are gone: they may have been large."""
        for model in [model for model, (folder, _) in self._memories.items() if not folder.is_dir()]:
            del self._memories[model]
            self.fast_heads.forget(model=model)
            self.filled = {key: filled for key, filled in self.filled.items() if key[0] != model}

    def remove_unused_builds(self) -> None:
        """Remove fine-tuned builds, and their rows, that no version names any more."""
        if any(self.layout.tunings.glob("*")):
            return  # a build may just have been made, and its version not yet
        used = self._used()
        # There is none before the first model has images of two classes.
        folders = [folder for folder in self.layout.backbones.glob("*") if _is_tuned(folder)]
        # A reduced build and the one that it was made of stay, or go, together.
        kept = {_sibling(folder, Precision.FP32) for folder in folders if folder.name in used}
        for folder in folders:
            if _sibling(folder, Precision.FP32) not in kept:
                self._remove(folder)

    def _used(self) -> set[str]:
        """Digests of the builds that versions are on."""
        models = self.versions.models()
        return {self.versions.manifest(m, n).build for m in models for n in self.versions.versions(m)}

    def _remove(self, folder: Path) -> None:
        """A build, its rows and its session. Rows first: a build that a kill left without any is whole."""
        self.fast_heads.forget(build=folder.name)
        self.filled = {key: filled for key, filled in self.filled.items() if key[1] != folder.name}
        bench = self._benches.pop(folder.name, None)
        if bench is not None:
            bench.close()
        shutil.rmtree(self.layout.features(folder.name), ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)

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


def _is_tuned(build: Path) -> bool:
    try:
        return read_build_spec(build).build_version.startswith(TUNED)
    except CorruptState:
        return False


def _sibling(build: Path, precision: Precision) -> Path:
    """Where the build of the same backbone at this precision lies, or would lie."""
    spec = read_build_spec(build)
    return build.parent / build_digest(spec.info, spec.plugin, precision.value)
