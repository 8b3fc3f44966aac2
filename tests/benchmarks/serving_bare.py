"""What the hardware gives without a server: the bare sessions, decoding, and the bound made of both.

All of it is measured in the same rounds as the served paths, on all cores.
"""

from __future__ import annotations

import multiprocessing
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import onnxruntime as ort

from tlserve.images import ImageDecoder
from tlserve.plugin_api import ImageSpec
from tlserve.runtime import BackboneSession, choose_device, read_build_spec, reference_pixels, usable_cores

BATCHES = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class BareSession:
    """One way to drive a build's session with all cores."""

    session: BackboneSession
    batch: int
    callers: int
    spin: bool = False

    @property
    def name(self) -> str:
        spinning = " that spin" if self.spin else ""
        threads = f"{self.session.threads} thread(s){spinning}"
        return f"{self.callers} caller(s) x {threads}, batch {self.batch}"

    def images_per_second(self, seconds: float) -> float:
        image = self.session.spec.image
        pixels = np.resize(reference_pixels(image), (self.batch, image.height, image.width, 3))
        done, started = [0] * self.callers, time.perf_counter()
        stop = started + seconds

        def call(caller: int) -> None:
            while time.perf_counter() < stop:
                self.session.rows(pixels)
                done[caller] += self.batch

        threads = [threading.Thread(target=call, args=(caller,)) for caller in range(self.callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(done) / (time.perf_counter() - started)


def best_bare(build: Path, seconds: float, rounds: int) -> BareSession:
    """The fastest way to drive the session: threads inside or side by side, and how many images at once.

    `seconds` for each way and round; the medians over the rounds decide.
    """
    cores = usable_cores()
    arrangements = ((cores, 1, False), (cores, 1, True), (1, cores, False))
    ways = [
        BareSession(session, batch, callers, spin)
        for threads, callers, spin in arrangements
        for session in [BackboneSession.open(build, choose_device("cpu"), threads=threads, spin=spin)]
        for batch in BATCHES
    ]
    rates: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for way, seen in zip(ways, rates, strict=True):
            seen.append(way.images_per_second(seconds))
    best = max(range(len(ways)), key=lambda index: statistics.median(rates[index]))
    return ways[best]


class PlainSession:
    """The graph as users have it, in a session with onnxruntime's own defaults, for one image at a time."""

    def __init__(self, graph: Path) -> None:
        self._session = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
        (tensor,) = self._session.get_inputs()
        shape = [size if isinstance(size, int) else 1 for size in tensor.shape]
        self._feed = {tensor.name: np.random.default_rng(0).normal(size=shape).astype(np.float32)}

    def p50_ms(self, seconds: float) -> float:
        """The median time of a run."""
        times, stop = [], time.perf_counter() + seconds
        while (began := time.perf_counter()) < stop:
            self._session.run(None, self._feed)
            times.append(time.perf_counter() - began)
        return statistics.median(times) * 1000


class Decoding:
    """`tlserve.images.ImageDecoder` alone on every core: a process each, so that nobody waits for a lock."""

    def __init__(self, photos: Path, build: Path) -> None:
        self._photos = sorted(photos.glob("*.jpg"))
        self._image = read_build_spec(build).image

    def __enter__(self) -> Self:
        fresh = multiprocessing.get_context("spawn")
        pipes = [fresh.Pipe() for _ in range(usable_cores())]
        self._ours = [ours for ours, _ in pipes]
        args = self._photos, self._image
        self._processes = [
            fresh.Process(target=decode_on_demand, args=(theirs, *args), daemon=True) for _, theirs in pipes
        ]
        for process in self._processes:
            process.start()
        for ours in self._ours:
            ours.recv()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for ours in self._ours:
            ours.send(None)
        for process in self._processes:
            process.join()

    def images_per_second(self, seconds: float) -> float:
        """Of all cores together."""
        for ours in self._ours:
            ours.send(seconds)
        return sum(float(ours.recv()) for ours in self._ours)


def decode_on_demand(pipe: Connection, photos: Sequence[Path], image: ImageSpec) -> None:
    """For each number of seconds that comes in, how many photos a second were decoded; None ends it."""
    decoder, contents = ImageDecoder(image), [path.read_bytes() for path in photos]
    decoder.decode(contents[0])
    pipe.send("ready")
    while (seconds := pipe.recv()) is not None:
        done, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            decoder.decode(contents[done % len(contents)])
            done += 1
        pipe.send(done / (time.perf_counter() - started))
