"""How close extraction comes to what decoding and inference allow on the same cores.

    python -m tests.benchmarks extraction

The bound is 1 / (1 / decode + 1 / session) images a second, where `decode` is the rate of decoding alone on
all cores and `session` the best rate of the backbone alone on all cores. They take turns within each round,
so that whatever else the machine does weighs on all of them. Bar: 0.85 of the bound. The ratio of the CPU
seconds an image costs says the same on an idle machine, and still does on a busy one.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tlserve.core.types import Pixels
from tlserve.features import Extractor, FeatureStore
from tlserve.images import ImageDecoder
from tlserve.plugin_host import PluginHost, make_build
from tlserve.runtime import BackboneSession, choose_device, usable_cores

BAR = 0.85
BATCH = 16
Seconds = npt.NDArray[np.float64]
"""(2,): on the wall clock, and of all cores' time."""
SHARED = Path(__file__).resolve().parents[3] / "shared"


def run(shared: Path = SHARED, *, n_photos: int = 512, rounds: int = 3) -> dict[str, float]:
    """Rates in images a second, and their ratio, with the shared MobileNetV2 on photos of flowers."""
    photos = sorted((shared / "datasets/flowers").rglob("*.jpg"))
    photos = photos[:: max(1, len(photos) // n_photos)][:n_photos]
    backbone = PluginHost().load(f"onnx:{shared / 'backbones/mobilenet_v2_imagenet.onnx'}")
    with tempfile.TemporaryDirectory() as folder:
        build = make_build(backbone, "onnx", Path(folder), choose_device("cpu"))
        return measure(build, photos, rounds=rounds)


def measure(build: Path, photos: Sequence[Path], *, rounds: int) -> dict[str, float]:
    """The same for any build and photos, each round going through all of them."""
    cores = usable_cores()
    lanes = BackboneSession.open(build, choose_device("cpu"), threads=1)
    together = BackboneSession.open(build, choose_device("cpu"), threads=cores, check=False)
    decoder = ImageDecoder(lanes.spec.image)
    pixels = np.stack([decoder.decode(photo.read_bytes()) for photo in photos[:BATCH]])
    n_batches = -(-len(photos) // BATCH)
    seconds = {name: np.zeros(2) for name in ("decode", "lanes", "together", "extraction")}
    for _ in range(rounds):
        seconds["decode"] += _decoding(decoder, photos, cores)
        seconds["lanes"] += _inference(lanes, pixels, n_batches, callers=cores)
        seconds["together"] += _inference(together, pixels, n_batches, callers=1)
        seconds["extraction"] += _extraction(lanes, photos)
    decode = rounds * len(photos) / seconds["decode"]
    best = min(seconds["lanes"], seconds["together"], key=lambda wall_and_cpu: float(wall_and_cpu[0]))
    session = rounds * n_batches * BATCH / best
    bound = 1 / (1 / decode + 1 / session)
    extraction = rounds * len(photos) / seconds["extraction"]
    return {
        "images": len(photos),
        "cores": cores,
        "decode, images/s": float(decode[0]),
        "session, images/s": float(session[0]),
        "bound, images/s": float(bound[0]),
        "extraction, images/s": float(extraction[0]),
        "extraction / bound, in CPU seconds": float(extraction[1] / bound[1]),
        f"extraction / bound (bar {BAR})": float(extraction[0] / bound[0]),
    }


def _extraction(session: BackboneSession, photos: Sequence[Path]) -> Seconds:
    """From files to stored rows."""
    jobs = [(hashlib.sha256(photo.read_bytes()).hexdigest(), photo) for photo in photos]
    with (
        tempfile.TemporaryDirectory() as folder,
        FeatureStore(Path(folder), row_width=session.spec.row_width) as store,
    ):
        return _timed(lambda: Extractor(session, store).extract(jobs))


def _decoding(decoder: ImageDecoder, photos: Sequence[Path], cores: int) -> Seconds:
    with ThreadPoolExecutor(cores) as threads:
        return _timed(lambda: list(threads.map(lambda photo: decoder.decode(photo.read_bytes()), photos)))


def _inference(session: BackboneSession, pixels: Pixels, n_batches: int, *, callers: int) -> Seconds:
    with ThreadPoolExecutor(callers) as threads:
        return _timed(lambda: list(threads.map(lambda _: session.rows(pixels), range(n_batches))))


def _timed(work: Callable[[], object]) -> Seconds:
    start = np.array([time.perf_counter(), time.process_time()])
    work()
    return np.asarray(np.array([time.perf_counter(), time.process_time()]) - start)


if __name__ == "__main__":
    figures = run()
    print(*(f"{name}: {value:.3f}" for name, value in figures.items()), sep="\n")
    sys.exit(0 if next(reversed(figures.values())) >= BAR else 1)
