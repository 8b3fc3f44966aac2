"""A thousand head swaps under load: nothing fails, every answer is that of the version it names.

    python -m tests.benchmarks head_swaps

A real daemon with six retained versions of one model, each with other classes, and eight clients that
check each answer (see `answer_key`). Slices with and without swaps take turns; between them lie two slices
without swaps, whose ratio says what the machine does by itself. Swaps go through Promote (tlserve.v1).
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from tests.benchmarks.answer_key import AnswerKey
from tests.benchmarks.checking_clients import CheckingClients, Order, Seen
from tests.benchmarks.installation import Installation, drawn_head, is_quick
from tlserve.client import Client

MODEL = "flowers"
CLASS_SETS = (
    ("daisy", "roses"),
    ("daisy", "dandelion", "roses"),
    ("sunflowers", "tulips"),
    ("daisy", "dandelion", "roses", "sunflowers", "tulips"),
    ("dandelion", "roses", "sunflowers", "tulips"),
    ("tulips", "roses", "daisy"),
)
BAR = 1.15
N_SWAPS, SECONDS, PAIRS, CLIENTS, N_PHOTOS = 200, 12.0, 5, 8, 32
LEAD_SECONDS = 0.5
"""The load runs for this long before the first swap."""


@dataclass(frozen=True)
class Swapped:
    """What the promoting client saw in one slice."""

    milliseconds: tuple[float, ...]
    seconds: float
    failed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Slice:
    """One stretch of load; swapped: None where it ran without swaps."""

    seen: Seen
    swapped: Swapped | None
    trainer_cpu_seconds: float
    daemon_cpu_seconds: float


@dataclass(frozen=True)
class Stage:
    """What a slice needs."""

    here: Installation
    clients: CheckingClients
    client: Client
    model: str
    order: Order

    def slice(self, versions: Sequence[int]) -> Slice:
        """Load as ordered, and `versions` promoted one after the other meanwhile, evenly spread.

        It begins when the trainer has nothing left to do, so that a slice does not pay for the one before.
        """
        self.here.settle(600)
        trainer, daemon = self._cpu_seconds()
        self.clients.start(self.order)
        swapped = None
        if versions:
            lead = min(LEAD_SECONDS, self.order.seconds / 10)
            time.sleep(lead)
            swapped = promote_evenly(self.client, self.model, versions, self.order.seconds - 2 * lead)
        seen = self.clients.seen()
        trainer_after, daemon_after = self._cpu_seconds()
        return Slice(seen, swapped, trainer_after - trainer, daemon_after - daemon)

    def _cpu_seconds(self) -> tuple[float, float]:
        return self.here.trainer_reading().cpu_seconds, self.here.daemon_reading().cpu_seconds


def run(shared: Path) -> dict[str, float | str]:
    """Needs ../shared; p99s over p99s, counts, and milliseconds of a Promote."""
    swaps, seconds, pairs = (40, 3.0, 2) if is_quick() else (N_SWAPS, SECONDS, PAIRS)
    with (
        tempfile.TemporaryDirectory(prefix="tlserve-bench-") as root,
        Installation.under(Path(root), shared) as here,
    ):
        build = here.build()
        for seed, labels in enumerate(CLASS_SETS):
            here.publish(MODEL, build, drawn_head(labels, seed), live=seed == 0)
        photos = sorted((shared / "datasets/flowers").rglob("*.jpg"))[::17][:N_PHOTOS]
        AnswerKey.of(photos, here.store, here.layout.backbones, (MODEL,)).save(Path(root) / "key")
        here.start()
        here.settle()
        with CheckingClients(here.address, Path(root) / "key") as clients, here.client() as client:
            clients.ask(Order(min(seconds, 3.0), CLIENTS, (MODEL,)))
            stage = Stage(here, clients, client, MODEL, Order(seconds, CLIENTS, (MODEL,)))
            slices = list(_slices(stage, swaps, pairs))
        # In order: a daemon that swapped a thousand times must still stop as it should.
        here.stop()
    return _told(slices)


def _slices(stage: Stage, swaps: int, pairs: int) -> Iterator[tuple[Slice, Slice, Slice, Slice]]:
    """off, on, off, off of each pair; every second pair begins with on."""
    versions = itertools.cycle([*range(2, len(CLASS_SETS) + 1), 1])
    for pair in range(pairs):
        found = {}
        for name in ("off", "on") if pair % 2 == 0 else ("on", "off"):
            wanted = list(itertools.islice(versions, swaps)) if name == "on" else []
            found[name] = stage.slice(wanted)
        control = [stage.slice([]) for _ in range(2)]
        yield found["off"], found["on"], control[0], control[1]


def promote_evenly(client: Client, model: str, versions: Sequence[int], seconds: float) -> Swapped:
    """Promote each, spread over `seconds`; whoever is late goes on at once."""
    began, took, failed = time.perf_counter(), [], []
    for index, version in enumerate(versions):
        time.sleep(max(0.0, began + index * seconds / len(versions) - time.perf_counter()))
        asked = time.perf_counter()
        try:
            line = client.promote(model, str(version))
        except Exception as exc:
            failed.append(f"version {version}: {exc!r}")
            continue
        took.append((time.perf_counter() - asked) * 1000)
        if (line.version, line.state) != (version, "live"):
            failed.append(f"version {version} was promoted, version {line.version} is {line.state}")
    return Swapped(tuple(took), time.perf_counter() - began, tuple(failed))


def _told(slices: Sequence[tuple[Slice, Slice, Slice, Slice]]) -> dict[str, float | str]:
    everything = [part for four in slices for part in four]
    swapped = [part.swapped for part in everything if part.swapped is not None]
    examples = [words for part in everything for words in part.seen.examples]
    examples += [words for one in swapped for words in one.failed]
    for words in examples[:5]:
        print(f"  ! {words}")
    took = np.concatenate([one.milliseconds for one in swapped])
    ratios = [on.seen.p99_ms / off.seen.p99_ms for off, on, _, _ in slices]
    control = [second.seen.p99_ms / first.seen.p99_ms for _, _, first, second in slices]
    in_time = sum(len(one.milliseconds) for one in swapped) / sum(one.seconds for one in swapped)
    named = len({name for part in everything if part.swapped for name in part.seen.versions})
    return {
        "swaps": float(len(took)),
        "swaps in a second (16.7 asked)": in_time,
        "requests, each answer checked": float(sum(part.seen.answered for part in everything)),
        "failed requests and wrong answers (0)": float(sum(part.seen.errors for part in everything)),
        "failed swaps (0)": float(sum(len(one.failed) for one in swapped)),
        "versions that answered during swaps": float(named),
        f"p99 with swaps / without, median of {len(slices)} pairs (at most {BAR})": median(ratios),
        "each pair": _listed(ratios),
        "control: p99 without / without": median(control),
        "each control": _listed(control),
        "p99 without swaps, ms": median(off.seen.p99_ms for off, _, _, _ in slices),
        "throughput with swaps / without": median(
            on.seen.per_second / off.seen.per_second for off, on, _, _ in slices
        ),
        "Promote, p50 and p99, ms": f"{np.percentile(took, 50):.1f}, {np.percentile(took, 99):.1f}",
        "trainer's CPU share with swaps, of a core": median(
            on.trainer_cpu_seconds / on.seen.seconds for _, on, _, _ in slices
        ),
        "daemon's CPU per answer, with swaps / without": median(
            (on.daemon_cpu_seconds / on.seen.answered) / (off.daemon_cpu_seconds / off.seen.answered)
            for off, on, _, _ in slices
        ),
    }


def _listed(ratios: Sequence[float]) -> str:
    return ", ".join(f"{ratio:.2f}" for ratio in ratios)
