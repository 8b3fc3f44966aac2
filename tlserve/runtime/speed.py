"""How fast a build runs on this machine: measured, and kept in `speed.json` beside its graph.

A state directory may move to another machine or be shared by two, so each number carries the processor
that it was measured on, and counts there only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from tlserve.core.backbones import BACKBONE_ALONE, Speed, SpeedOf, newest_speeds
from tlserve.runtime.devices import Device, usable_cores
from tlserve.runtime.probe import gpu_count, gpu_name
from tlserve.runtime.processor import this_processor
from tlserve.runtime.session import BackboneSession

SPEED_FILE = "speed.json"
MEASURED_BATCHES = (1, 32)
"""A single request, and a full batch."""
MEASURE_SECONDS = 2.0


def measure(
    session: BackboneSession,
    batch_sizes: Sequence[int] = MEASURED_BATCHES,
    *,
    seconds: float = MEASURE_SECONDS,
) -> tuple[Speed, ...]:
    """Run the session on noise for about `seconds` per batch size; at least once after a warm-up."""
    return tuple(_measured(session, size, seconds) for size in batch_sizes)


def measure_build(
    folder: Path, device: Device, *, threads: int = 0, seconds: float = MEASURE_SECONDS
) -> tuple[Speed, ...]:
    """Speeds of the build in `folder`, run as it is served: on a GPU, prepared for the measured batches.

    Raises what `BackboneSession.open` raises.
    """
    session = BackboneSession.open(folder, device, threads=threads, buckets=MEASURED_BATCHES)
    try:
        return measure(session, seconds=seconds)
    finally:
        session.close()


def observed(
    of: SpeedOf, n_images: int, seconds: float, *, device: Device, threads: int, batch_size: int = 0
) -> Speed:
    """The speed of work that was done on this machine and just now; batch_size as in `Speed`."""
    return Speed(
        of=of,
        batch_size=batch_size,
        images_per_second=round(n_images / max(seconds, 1e-9), 2),
        device=device.name,
        hardware=hardware_of(device),
        threads=threads,
        measured_at=round(time.time(), 1),
    )


def read_speeds(folder: Path) -> tuple[Speed, ...]:
    """What is kept beside the build in `folder`; nothing where it is missing or unreadable."""
    try:
        raw = json.loads((folder / SPEED_FILE).read_text(encoding="utf-8"))
        speeds = tuple(Speed(**one) for one in raw)
        return tuple(speed for speed in speeds if speed.images_per_second > 0 and speed.hardware)
    except (OSError, ValueError, TypeError):
        return ()


def record_speeds(folder: Path, speeds: Iterable[Speed]) -> bool:
    """Keep them beside the build in `folder`, in place of older ones under the same circumstances.

    False where the disk does not take them: nothing but a number in a listing is lost.
    """
    kept = newest_speeds((*read_speeds(folder), *speeds))
    scratch = folder / f".{SPEED_FILE}.{os.getpid()}"
    try:
        scratch.write_text(json.dumps([dataclasses.asdict(one) for one in kept], indent=1) + "\n", "utf-8")
        scratch.replace(folder / SPEED_FILE)
    except OSError:
        with contextlib.suppress(OSError):
            scratch.unlink()
        return False
    return True


def measured_here(speeds: Iterable[Speed]) -> tuple[Speed, ...]:
    """Those of a processor that this machine has."""
    speeds = tuple(speeds)
    here = {_cpu_name()} if speeds else set()
    if any(speed.device != "cpu" for speed in speeds):
        here |= {gpu_name(gpu) for gpu in range(gpu_count())}
    return tuple(speed for speed in speeds if speed.hardware in here)


def hardware_of(device: Device) -> str:
    """The processor behind a device, in its maker's words; a CPU with the cores that may be used."""
    return gpu_name(device.device_id) if device.is_cuda else _cpu_name()


def _measured(session: BackboneSession, size: int, seconds: float) -> Speed:
    image = session.spec.image
    pixels = np.random.default_rng(0).integers(0, 256, (size, image.height, image.width, 3), np.uint8)
    session.rows(pixels)
    runs, began = 0, time.perf_counter()
    while not runs or time.perf_counter() - began < seconds:
        session.rows(pixels)
        runs += 1
    spent = time.perf_counter() - began
    return observed(
        BACKBONE_ALONE, runs * size, spent, device=session.device, threads=session.threads, batch_size=size
    )


def _cpu_name() -> str:
    cores = usable_cores()
    return f"{this_processor().name}, {cores} core{'s' if cores > 1 else ''}"
