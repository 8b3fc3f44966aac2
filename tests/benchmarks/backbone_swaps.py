"""Twenty backbone swaps under load: nothing fails, and the memory of what went comes back.

    python -m tests.benchmarks backbone_swaps

A real daemon, one model with a version on each of three builds of one size. Live and previous stay loaded,
so each promotion of the third loads and warms a whole backbone beside the two, flips, and lets one go.
Slices with and without swaps take turns; every answer is checked against the version that it names.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Sequence
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
    ("sunflowers", "tulips", "daisy"),
    ("daisy", "dandelion", "roses", "sunflowers", "tulips"),
)
SHIFTS = (0.0, 4.0, 8.0)
P99_BAR, GROWTH_BAR = 2.0, 0.05
N_SWAPS, SECONDS, PAIRS, CLIENTS, N_PHOTOS = 4, 12.0, 5, 8, 32
"""Swaps and seconds of a slice; pairs of slices."""


@dataclass(frozen=True)
class Swap:
    milliseconds: float
    pss_mb: float
    """Of the daemon, some time afterwards."""


@dataclass(frozen=True)
class Pair:
    off: Seen
    on: Seen
    swaps: tuple[Swap, ...]


def run(shared: Path) -> dict[str, float | str]:
    """Needs ../shared."""
    swaps, seconds, pairs = (3, 6.0, 2) if is_quick() else (N_SWAPS, SECONDS, PAIRS)
    with (
        tempfile.TemporaryDirectory(prefix="tlserve-bench-") as root,
        Installation.under(Path(root), shared) as here,
    ):
        for seed, (shift, labels) in enumerate(zip(SHIFTS, CLASS_SETS, strict=True)):
            here.publish(MODEL, here.build(shift=shift), drawn_head(labels, seed), live=seed == 0)
        photos = sorted((shared / "datasets/flowers").rglob("*.jpg"))[::17][:N_PHOTOS]
        AnswerKey.of(photos, here.store, here.layout.backbones, (MODEL,)).save(Path(root) / "key")
        here.start()
        here.settle()
        versions = itertools.cycle((2, 3, 1))
        order = Order(seconds, CLIENTS, (MODEL,))
        with CheckingClients(here.address, Path(root) / "key") as clients, here.client() as client:
            clients.ask(Order(min(seconds, 3.0), CLIENTS, (MODEL,)))
            measured = []
            for _ in range(pairs):
                here.settle(600)
                off = clients.ask(order)
                clients.start(order)
                swapped = _promote(here, client, list(itertools.islice(versions, swaps)), seconds)
                measured.append(Pair(off, clients.seen(), swapped))
        here.stop()
    return _told(measured)


def _promote(here: Installation, client: Client, versions: Sequence[int], seconds: float) -> tuple[Swap, ...]:
    """Each in its own part of the slice; memory is read at the end of the part."""
    began, found = time.perf_counter(), []
    part = seconds / len(versions)
    for index, version in enumerate(versions):
        time.sleep(max(0.0, began + index * part - time.perf_counter()))
        asked = time.perf_counter()
        line = client.promote(MODEL, str(version))
        assert (line.version, line.state) == (version, "live"), line
        took = (time.perf_counter() - asked) * 1000
        time.sleep(max(0.0, began + (index + 0.9) * part - time.perf_counter()))
        found.append(Swap(took, here.daemon_reading().pss_mb))
    return tuple(found)


def _told(pairs: Sequence[Pair]) -> dict[str, float | str]:
    slices = [part for pair in pairs for part in (pair.off, pair.on)]
    for words in [words for part in slices for words in part.examples][:5]:
        print(f"  ! {words}")
    swaps = [swap for pair in pairs for swap in pair.swaps]
    ratios = [pair.on.p99_ms / pair.off.p99_ms for pair in pairs]
    memory = [swap.pss_mb for swap in swaps]
    # Single readings vary with what is under way; the first swap is the one that makes it two backbones.
    few = min(5, (len(memory) - 1) // 2)
    growth = median(memory[-few:]) / median(memory[1 : 1 + few]) - 1
    slope = float(np.polyfit(np.arange(len(memory) - 1), memory[1:], 1)[0])
    return {
        "swaps, each to a backbone that was not loaded": float(len(swaps)),
        "requests, each answer checked": float(sum(part.answered for part in slices)),
        "failed requests and wrong answers (0)": float(sum(part.errors for part in slices)),
        f"p99 with swaps / without, median of {len(pairs)} pairs (at most {P99_BAR})": median(ratios),
        "each pair": ", ".join(f"{ratio:.2f}" for ratio in ratios),
        "p99 without swaps, ms": median(pair.off.p99_ms for pair in pairs),
        "longest answer with swaps / without": median(
            pair.on.longest_ms / pair.off.longest_ms for pair in pairs
        ),
        f"memory after the last {few} / after {few} from the second, - 1 (at most {GROWTH_BAR})": growth,
        "memory after each swap, MB": ", ".join(f"{value:.0f}" for value in memory),
        "memory by linear fit, MB a swap": slope,
        "Promote, p50 and longest, ms": f"{median(s.milliseconds for s in swaps):.0f}, "
        f"{max(s.milliseconds for s in swaps):.0f}",
    }
