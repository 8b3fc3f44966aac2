"""Throughput and latency of a real daemon on a GPU, over what the bare CUDA session does in the same run.

    python -m tests.benchmarks gpu

ResNet-50 in fp16, as `reduce_build` makes it; with random weights where torchvision's are not there, for they
are as fast. Every round measures the bare session and the served paths one after the other; the results are
the medians over the rounds of the ratios within a round. The bare session copies its pictures in and its rows
out, as serving must; its best batch size counts. What a served image costs the daemon's CPU is told with it:
where it is near all cores, the front end is the ceiling and not the GPU.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tests.benchmarks.installation import Installation, drawn_head, is_quick
from tests.flow.daemon_process import DaemonProcess
from tlserve.client.load import LoadResult, LoadSettings, Question, Requests, measure, prepare
from tlserve.core.errors import BackboneProblem
from tlserve.core.precision import Precision
from tlserve.plugin_host import PluginHost, make_build, reduce_build
from tlserve.release import VersionStore
from tlserve.release.layout import StateLayout
from tlserve.runtime import (
    BackboneSession,
    BuildSpec,
    Device,
    available_providers,
    choose_device,
    hardware_of,
    read_build_spec,
    reference_pixels,
)

MODEL = "flowers"
LABELS = ("daisy", "dandelion", "roses", "sunflowers", "tulips")
BACKBONES = ("torchvision/resnet50", "torchvision/resnet50@random")
PIXELS_BAR, JPEG_BAR = 0.8, 0.5
BAR_OF = {"pixels": PIXELS_BAR, "image": JPEG_BAR}
NAME_OF = {"pixels": "pixels", "image": "JPEG"}
"""The model's inputs, and what travels to them."""


@dataclass(frozen=True)
class Plan:
    """What is measured where, and for how long."""

    device: str
    seconds: float
    rounds: int
    clients: int
    processes: int
    """Of the load generator."""
    max_batch: int
    photos: tuple[Path, ...] = ()
    """JPEG files; none: made-up ones."""
    settings: dict[str, str] = field(default_factory=dict)
    """Further TLSERVE_ variables of the daemon."""


def measure_gpu(root: Path, make: Callable[[Path], Path], plan: Plan) -> dict[str, float | str]:
    """`make` puts the build that is served into the folder it is given. All is written under `root`."""
    with _installation(root, plan) as here:
        here.layout.backbones.mkdir(parents=True, exist_ok=True)
        build = make(here.layout.backbones)
        spec, device = read_build_spec(build), choose_device(plan.device)
        tap = spec.taps[-1]
        head = drawn_head(LABELS, n_features=tap.width)
        here.publish(MODEL, build, dataclasses.replace(head, taps=(tap.name,)), live=True)
        bare = Bare.best(build, device, plan)
        ready_seconds = here.start()
        here.settle()
        served = Served(here, plan)
        lines = _about(spec, device, bare, ready_seconds)
        lines |= _throughput(bare, served, plan)
        lines["session without bound buffers, images/s"] = _unbound(build, device, bare.batch, plan)
        bare.session.close()
        return lines


def _installation(root: Path, plan: Plan) -> Installation:
    layout = StateLayout(root / "state")
    variables = {
        **os.environ,
        "TLSERVE_DEVICE": plan.device,
        "TLSERVE_MAX_BATCH": str(plan.max_batch),
        **plan.settings,
    }
    daemon = DaemonProcess(root / "watch", layout.root, "nano", root / "log", env=variables)
    daemon.watch.mkdir(parents=True, exist_ok=True)
    return Installation(daemon, Path(), layout, VersionStore(layout.models))


@dataclass(frozen=True)
class Bare:
    """The session of the build, driven by one caller with its best batch."""

    session: BackboneSession
    batch: int

    @classmethod
    def best(cls, build: Path, device: Device, plan: Plan) -> Bare:
        sizes = [size for size in (1, 4, 8, 16, 32, 64, 128, 256) if size <= plan.max_batch]
        session = BackboneSession.open(build, device, buckets=sizes)
        ways = [cls(session, size) for size in sizes]
        return max(ways, key=lambda way: way.images_per_second(plan.seconds / 4))

    def images_per_second(self, seconds: float) -> float:
        image = self.session.spec.image
        pixels = np.resize(reference_pixels(image), (self.batch, image.height, image.width, 3))
        self.session.rows(pixels)
        done, began = 0, time.perf_counter()
        while not done or time.perf_counter() - began < seconds:
            self.session.rows(pixels)
            done += self.batch
        return done / (time.perf_counter() - began)


def _unbound(build: Path, device: Device, batch: int, plan: Plan) -> float:
    """What buffers and CUDA graphs are worth: the same batches without them."""
    plain = Bare(BackboneSession.open(build, device), batch)
    rate = plain.images_per_second(plan.seconds)
    plain.session.close()
    return rate


@dataclass(frozen=True)
class Slice:
    """One look at one way through the server."""

    load: LoadResult
    daemon_cores: float
    """Cores that the daemon used."""


class Served:
    """The daemon, asked over gRPC."""

    def __init__(self, here: Installation, plan: Plan) -> None:
        self._here, self._plan = here, plan
        self._requests: dict[str, Requests] = {
            name: prepare(here.address, Question((MODEL,), plan.photos, input_name=name)) for name in BAR_OF
        }

    def ask(self, path: str, *, rate: float | None = None) -> Slice:
        plan = self._plan
        settings = LoadSettings(
            self._here.address,
            clients=plan.clients,
            rate=rate,
            seconds=plan.seconds,
            warm_up_seconds=plan.seconds / 4,
            processes=plan.processes,
        )
        before, began = self._here.daemon_reading().cpu_seconds, time.perf_counter()
        load = measure(settings, self._requests[path])
        spent, lasted = self._here.daemon_reading().cpu_seconds - before, time.perf_counter() - began
        return Slice(load, spent / lasted)


def _throughput(bare: Bare, served: Served, plan: Plan) -> dict[str, float | str]:
    bare_rates: list[float] = []
    seen: dict[str, list[Slice]] = defaultdict(list)
    for _ in range(plan.rounds):
        bare_rates.append(bare.images_per_second(plan.seconds))
        for path in BAR_OF:
            seen[path].append(served.ask(path))
    lines: dict[str, float | str] = {"bare session, images/s": _median(bare_rates)}
    for path, slices in seen.items():
        name, rates = NAME_OF[path], [one.load.images_per_second for one in slices]
        ratios = [rate / base for rate, base in zip(rates, bare_rates, strict=True)]
        half = served.ask(path, rate=max(1.0, _median(rates) / 2))
        at_half = half.load.latency_ms
        lines |= {
            f"{name} over gRPC, {plan.clients} clients, images/s": _median(rates),
            f"{name} / bare (at least {BAR_OF[path]})": _median(ratios),
            f"{name}, p99 ms": _median([one.load.latency_ms.p99 for one in slices if one.load.latency_ms]),
            f"{name} at half load, p50 ms": at_half.p50 if at_half else "no answers",
            f"{name} at half load, p99 ms": at_half.p99 if at_half else "no answers",
            f"{name}, failed requests": sum(one.load.n_errors for one in (*slices, half)),
            f"{name}, cores of {os.cpu_count()} used by the daemon": _median(
                [one.daemon_cores for one in slices]
            ),
            f"{name}, load generator was the ceiling": _yes(
                any(one.load.generator_is_ceiling for one in slices)
            ),
        }
    return lines


def _about(spec: BuildSpec, device: Device, bare: Bare, ready_seconds: float) -> dict[str, float | str]:
    return {
        "backbone": f"{spec.name} in {spec.precision}",
        "device": f"{device.name}, {hardware_of(device)}",
        "bare session's best": f"batch {bare.batch}; {bare.session.describe()}",
        "daemon ready after, s": ready_seconds,
    }


def _median(values: Sequence[float]) -> float:
    return float(statistics.median(values)) if values else float("nan")


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


def half_precision_build(backbones_dir: Path, device: Device, backbones: Sequence[str] = BACKBONES) -> Path:
    """The first of these that can be had, in fp16; in fp32 where it cannot be reduced, which is printed."""
    build = _first_build(backbones, backbones_dir, device)
    image = read_build_spec(build).image
    try:
        return reduce_build(build, Precision.FP16, reference_pixels(image), device)
    except BackboneProblem as problem:
        print(f"  in fp32: {problem}")
        return build


def _first_build(backbones: Sequence[str], backbones_dir: Path, device: Device) -> Path:
    host, problem = PluginHost(), BackboneProblem("no backbone was named")
    for name in backbones:
        try:
            return make_build(host.load(name), host.plugin_of(name), backbones_dir, device)
        except BackboneProblem as exc:  # its weights are not on this disk, nor to be downloaded
            problem = exc
    raise problem


def run(shared: Path) -> dict[str, float | str]:
    """Needs a GPU; ../shared only for its photos."""
    report = available_providers()
    if not report.cuda_works:
        return {"skipped, no GPU": report.cuda_detail}
    device = choose_device("cuda")
    photos = tuple(sorted((shared / "datasets/flowers").rglob("*.jpg"))[::7][:256])
    seconds, rounds = (1.0, 1) if is_quick() else (5.0, 5)
    cores = os.cpu_count() or 1
    plan = Plan(device.name, seconds, rounds, 128, max(1, cores // 4), 64, photos)
    with TemporaryDirectory() as folder:
        return measure_gpu(Path(folder), lambda into: half_precision_build(into, device), plan)
