"""A daemon as users run it, in a process of its own, on a state that was prepared without a trainer.

Builds are made of the shared MobileNetV2, heads are drawn at random and published through the version
store, so that a benchmark may have as many models, versions and class sets as it needs in a moment. What the
processes cost is read from the system.

    with Installation.under(Path(root), shared) as here:
        build = here.build()
        here.publish("flowers", build, drawn_head(("daisy", "roses")), live=True)
        here.start()
        here.settle()
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import psutil

from tests.flow.daemon_process import DaemonProcess, wait_until
from tlserve.client import Client
from tlserve.core.head import Dense, Head, Novelty
from tlserve.plugin_host import PluginHost, make_build
from tlserve.release import Draft, VersionStore, promoted
from tlserve.release.layout import StateLayout
from tlserve.runtime import choose_device

WIDTH = 1280
"""Features of the shared MobileNetV2's last tap."""
MB = 2**20
QUIET_SHARE = 0.05
"""Of a core, that a trainer with nothing to do may use."""


def is_quick() -> bool:
    """Whether the figures may be rough: TLSERVE_BENCH_QUICK=1 tries a benchmark out."""
    return os.environ.get("TLSERVE_BENCH_QUICK", "") not in ("", "0")


def drawn_head(
    labels: Sequence[str], seed: int = 0, *, n_features: int = WIDTH, novelty: bool = True
) -> Head:
    """A head that nobody trained, of the size and with the parts of a trained one; no two seeds agree."""
    draw = np.random.default_rng(seed)
    weight = (draw.normal(size=(n_features, len(labels))) / 8).astype(np.float32)
    bias = draw.normal(size=len(labels)).astype(np.float32)
    return Head(
        tuple(labels),
        ("features",),
        (Dense(weight, bias),),
        novelty=_drawn_novelty(draw, n_features, 4 * len(labels)) if novelty else None,
    )


def _drawn_novelty(draw: np.random.Generator, n_features: int, n_centroids: int) -> Novelty:
    centroids = draw.normal(size=(n_centroids, n_features)).astype(np.float16).astype(np.float32)
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    curve = np.linspace(0, 1, 64, dtype=np.float32)
    ones = np.ones(n_features, np.float32)
    return Novelty(np.zeros(n_features, np.float32), ones, centroids, 2 * curve, curve, 0.01, 4.0)


@dataclass(frozen=True, slots=True)
class Reading:
    """What some processes hold and have used at one moment."""

    pids: tuple[int, ...]
    pss_mb: float
    """Proportional set size: pages shared with others count in part."""
    rss_mb: float
    cpu_seconds: float
    threads: int
    files: int
    """Open file descriptors."""


def reading(pids: Sequence[int]) -> Reading:
    """Processes that are gone by now count nothing."""
    found, pss, rss, cpu, threads, files = [], 0.0, 0.0, 0.0, 0, 0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            memory, times = process.memory_full_info(), process.cpu_times()
            pss, rss = pss + memory.pss / MB, rss + memory.rss / MB
            cpu += times.user + times.system
            threads, files = threads + process.num_threads(), files + process.num_fds()
            found.append(pid)
    return Reading(tuple(found), pss, rss, cpu, threads, files)


@dataclass
class Installation:
    """One daemon with its folders. `start` and `stop` may be called again; leaving the block ends it."""

    daemon: DaemonProcess
    onnx: Path
    layout: StateLayout
    store: VersionStore
    _builds: dict[float, Path] = field(default_factory=dict)

    @classmethod
    def under(
        cls, root: Path, shared: Path, *, extra: Sequence[str] = (), env: dict[str, str] | None = None
    ) -> Installation:
        """Everything it writes goes under `root`. extra: flags of `tlserve serve`; env: variables to add."""
        layout = StateLayout(root / "state")
        onnx = shared / "backbones/mobilenet_v2_imagenet.onnx"
        variables = {**os.environ, **(env or {})}
        daemon = DaemonProcess(
            root / "watch", layout.root, f"onnx:{onnx}", root / "log", extra=tuple(extra), env=variables
        )
        daemon.watch.mkdir(parents=True, exist_ok=True)
        return cls(daemon, onnx, layout, VersionStore(layout.models))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.daemon.kill()

    # -- before the start

    def build(self, *, shift: float = 0.0) -> Path:
        """The folder of a build in fp32; `shift` (of the mean pixel) makes others of the same size.

        They have other digests and give other features, as two trainings of one network would.
        """
        if shift not in self._builds:
            source = self.onnx if not shift else self._shifted(shift)
            backbone = PluginHost().load(f"onnx:{source}")
            self.layout.backbones.mkdir(parents=True, exist_ok=True)
            self._builds[shift] = make_build(backbone, "onnx", self.layout.backbones, choose_device("cpu"))
        return self._builds[shift]

    def _shifted(self, shift: float) -> Path:
        folder = self.layout.root.parent / f"onnx{shift:g}"
        folder.mkdir(parents=True, exist_ok=True)
        link = folder / self.onnx.name
        link.unlink(missing_ok=True)
        link.symlink_to(self.onnx)
        beside = json.loads(self.onnx.with_suffix(".json").read_text())
        beside["image"]["mean"] = [value + shift for value in beside["image"]["mean"]]
        link.with_suffix(".json").write_text(json.dumps(beside))
        return link

    def publish(self, model: str, build: Path, head: Head, *, live: bool = False) -> int:
        """The number of a new version of `model`; its watched folder is there, and empty.

        live: before the start only, for afterwards LIVE is the daemon's; promote over a client then.
        """
        (self.daemon.watch / model).mkdir(exist_ok=True)
        draft = Draft(
            job_id=uuid.uuid4().hex,
            created=time.time(),
            backbone=self.daemon.backbone,
            build=build.name,
            snapshot_id=uuid.uuid4().hex * 2,
            counts=dict.fromkeys(head.labels, 20),
            verdict="promote",
            reason="drawn for a benchmark",
            evidence="first",
            accuracy=0.9,
            accuracy_low=0.88,
            accuracy_high=0.92,
        )
        number = self.store.publish(model, head, draft, {"drawn": True}).version
        if live:
            self.go_live(model, number)
        return number

    def go_live(self, model: str, version: int) -> None:
        """Write LIVE, before the start."""
        state = promoted(self.store.live(model), version, time.time(), "set for a benchmark")
        self.store.write_live(model, state)

    # -- life

    def start(self) -> float:
        """Returns the seconds until it answered that it is ready."""
        began = time.perf_counter()
        self.daemon.start()
        return time.perf_counter() - began

    def stop(self) -> None:
        """In order, as SIGTERM does."""
        code = self.daemon.stop()
        assert code == 0, self.daemon.log.read_text()[-2000:]

    def client(self, *, timeout_seconds: float | None = 60.0) -> Client:
        return Client(self.daemon.address, timeout_seconds=timeout_seconds)

    @property
    def address(self) -> str:
        return self.daemon.address

    # -- what it costs

    @property
    def pid(self) -> int:
        """Of the daemon itself."""
        assert self.daemon.process is not None
        return self.daemon.process.pid

    def children(self) -> tuple[int, ...]:
        """The trainer and whatever else the daemon started."""
        with contextlib.suppress(psutil.Error):
            return tuple(child.pid for child in psutil.Process(self.pid).children(recursive=True))
        return ()

    def daemon_reading(self) -> Reading:
        return reading((self.pid,))

    def trainer_reading(self) -> Reading:
        return reading(self.children())

    def tree_reading(self) -> Reading:
        return reading((self.pid, *self.children()))

    def settle(self, seconds: float = 120.0, *, window: float = 1.0) -> float:
        """Wait until the trainer has nothing to do any more; returns how long that took, in seconds.

        Fails when it is still at work after `seconds`.
        """
        began = time.perf_counter()

        def is_quiet() -> bool:
            before = self.trainer_reading()
            time.sleep(window)
            after = self.trainer_reading()
            same = before.pids == after.pids and len(after.pids) > 0
            return same and after.cpu_seconds - before.cpu_seconds < QUIET_SHARE * window

        wait_until(is_quiet, "the trainer is still at work", seconds)
        return time.perf_counter() - began
