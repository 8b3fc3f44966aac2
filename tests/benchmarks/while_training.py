"""What a retraining does to who asks meanwhile: p99 during it over p99 without.

    python -m tests.benchmarks while_training

A real daemon serves one model; 2,934 flowers appear in another model's folder, none of them in the cache, and
are passed through the same MobileNetV2 and learnt. One client, then eight, ask all the time, each answer
checked, before, during and after it. How long the training takes with and without them is told too.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.benchmarks.answer_key import AnswerKey
from tests.benchmarks.checking_clients import CheckingClients, Order
from tests.benchmarks.installation import Installation, drawn_head, is_quick
from tlserve.client import Client

MODEL, TRAINED = "served", "flowers"
LABELS = ("daisy", "dandelion", "roses", "sunflowers", "tulips")
BAR = 2.0
N_PHOTOS = 32
IDLE_SECONDS, SLICE_SECONDS, PATIENCE_SECONDS = 15.0, 5.0, 180.0
"""Of load without training, before and after; of one order; and how much of a training is watched."""
QUICK_SECONDS = 20.0


@dataclass(frozen=True)
class Watched:
    """One training, and the load beside it."""

    clients: int
    idle_ms: tuple[float, ...]
    training_ms: tuple[float, ...]
    """Latencies of all answers."""
    errors: int
    examples: tuple[str, ...]
    images: float
    """Passed through the backbone while it was watched."""
    seconds: float
    is_over: bool

    @property
    def ratio(self) -> float:
        return float(np.percentile(self.training_ms, 99) / np.percentile(self.idle_ms, 99))


def run(shared: Path) -> dict[str, float | str]:
    """Needs ../shared."""
    with tempfile.TemporaryDirectory(prefix="tlserve-bench-") as root:
        pictures = Path(root) / TRAINED
        shutil.copytree(shared / "datasets/flowers", pictures)
        watched = [watch(Path(root) / str(n), shared, pictures, n) for n in (0, 1, 8)]
    return _told(watched)


def watch(root: Path, shared: Path, pictures: Path, n_clients: int) -> Watched:
    """A daemon of its own, so that the cache is cold; `pictures` are moved into its folder and back."""
    root.mkdir()
    patience = QUICK_SECONDS if is_quick() else PATIENCE_SECONDS
    with Installation.under(root, shared) as here:
        here.publish(MODEL, here.build(), drawn_head(LABELS), live=True)
        photos = sorted((shared / "datasets/flowers").rglob("*.jpg"))[::17][:N_PHOTOS]
        AnswerKey.of(photos, here.store, here.layout.backbones, (MODEL,)).save(root / "key")
        here.start()
        here.settle()
        folder = here.daemon.watch / TRAINED
        with CheckingClients(here.address, root / "key") as clients, here.client() as client:
            load = Load(clients, n_clients)
            idle = load.ask(IDLE_SECONDS)
            before = here.daemon.metric("tlserve_backbone_images_total")
            pictures.rename(folder)
            began, training = time.perf_counter(), []
            while not (is_over := _is_live(client)) and time.perf_counter() - began < patience:
                training += load.ask(SLICE_SECONDS)
            seconds = time.perf_counter() - began
            images = _images_passed(here, client) - before
            folder.rename(pictures)
            if is_over:
                here.settle(60)
                idle += load.ask(IDLE_SECONDS)
    return Watched(
        n_clients, tuple(idle), tuple(training), load.errors, tuple(load.examples), images, seconds, is_over
    )


@dataclass
class Load:
    """So many clients, or none: then time passes."""

    clients: CheckingClients
    n_clients: int
    errors: int = 0

    def __post_init__(self) -> None:
        self.examples: list[str] = []

    def ask(self, seconds: float) -> list[float]:
        """Latencies, in milliseconds."""
        if not self.n_clients:
            time.sleep(min(seconds, 1.0))
            return []
        seen = self.clients.ask(Order(seconds, self.n_clients, (MODEL,), keep_latencies=True))
        self.errors += seen.errors
        self.examples += seen.examples
        return seen.latencies_ms


def _is_live(client: Client) -> bool:
    return any(line.model == TRAINED and line.live is not None for line in client.models())


def _images_passed(here: Installation, client: Client) -> float:
    """Counted when a pass is over; until then as far as its progress says."""
    counted = here.daemon.metric("tlserve_backbone_images_total")
    now = client.model(TRAINED)
    return counted + (now.done if now.phase == "extracting" else 0)


def _told(watched: Sequence[Watched]) -> dict[str, float | str]:
    alone, *loaded = watched
    for words in [words for one in loaded for words in one.examples][:5]:
        print(f"  ! {words}")
    told: dict[str, float | str] = {"training without load, s": _how_long(alone)}
    for one in loaded:
        n = f"{one.clients} client{'' if one.clients == 1 else 's'}"
        idle, training = np.array(one.idle_ms), np.array(one.training_ms)
        told |= {
            f"{n}: p99 while training / without (at most {BAR:g})": one.ratio,
            f"{n}: p50 while training / without": float(np.median(training) / np.median(idle)),
            f"{n}: p50, p99 without training, ms": _both(idle),
            f"{n}: p50, p99 while training, ms": _both(training),
            f"{n}: failed requests and wrong answers (0)": float(one.errors),
            f"{n}: training, s": _how_long(one),
            f"{n}: pictures passed in a second, with load / without": _per_second(one) / _per_second(alone),
        }
    return told


def _per_second(one: Watched) -> float:
    """Scanning and training included; at least one picture, for a look that ended before the first."""
    return max(1.0, one.images) / one.seconds


def _how_long(one: Watched) -> str:
    return (
        f"{one.seconds:.0f}" if one.is_over else f"over {one.seconds:.0f} ({one.images:.0f} pictures by then)"
    )


def _both(milliseconds: npt.NDArray[np.float64]) -> str:
    p50, p99 = np.percentile(milliseconds, (50, 99))
    return f"{p50:.1f}, {p99:.1f}"
