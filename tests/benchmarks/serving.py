"""Throughput and latency of a real daemon, as shares of what the hardware does in the same run.

    python -m tests.benchmarks serving

The daemon is a process of its own, the clients are another one. Every round measures, for 1, 8 and 32
clients, the bare sessions and bare decoding, and right after them each served path; the results are the
medians over the rounds of the ratios within a round.

The bound for JPEG: with d core-seconds to decode a photo (`tlserve.images.ImageDecoder`, a process on every
core) and s core-seconds to run it (the best bare session of the same build), a machine of so many cores
cannot answer more than cores / (d + s) photos a second, whoever schedules them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.installation import is_quick
from tests.benchmarks.serving_bare import BareSession, Decoding, PlainSession, best_bare
from tests.benchmarks.serving_clients import Clients, Order, Seen
from tests.benchmarks.serving_models import PRECISIONS, Served, serving_both

PAYLOADS = ("pixels", "jpeg")
CLIENTS = (1, 8, 32)
MOST = max(CLIENTS)
FIGURES = "rate", "p50_ms", "p99_ms"
PIXELS_FP32_BAR, PIXELS_AUTO_BAR, JPEG_BAR, LONE_BAR = 0.82, 1.4, 0.85, 1.5

Way = tuple[str, str, int]
"""(payload, precision, clients)"""


@dataclass(frozen=True)
class Block:
    """One number of clients in one round: what the hardware does, and right after it the served paths."""

    bare: dict[str, float]
    """By precision: images/s."""
    decoding: float
    """Photos/s."""
    lone_ms: float
    """The plain session's median time for one image."""
    seen: dict[Way, Seen]
    cpu_seconds: dict[Way, float]
    """Of the daemon and the clients."""

    @property
    def bound(self) -> float:
        """Photos a second that auto's session and the decoder allow."""
        return 1 / (1 / self.bare["auto"] + 1 / self.decoding)


def measure(
    served: Served, bare: dict[str, BareSession], *, seconds: float, rounds: int
) -> dict[int, list[Block]]:
    """By number of clients, one block a round; `seconds` for each slice of it."""
    plain = PlainSession(served.here.onnx)
    blocks: dict[int, list[Block]] = {n: [] for n in CLIENTS}
    with Clients(served.photos) as clients, Decoding(served.photos, served.builds["fp32"]) as decoding:
        for n in CLIENTS:
            _served(served, clients, _ways(n), seconds / 4)
        for round_ in range(rounds):
            for n in CLIENTS:
                rates = {precision: one.images_per_second(seconds) for precision, one in bare.items()}
                decoded, lone_ms = decoding.images_per_second(seconds), plain.p50_ms(seconds)
                time.sleep(0.2)  # its threads spin for a moment after the last run
                # Nobody should always follow the same one.
                ways = _ways(n)[:: -1 if round_ % 2 else 1]
                blocks[n].append(Block(rates, decoded, lone_ms, *_served(served, clients, ways, seconds)))
    return blocks


def _ways(n_clients: int) -> list[Way]:
    return [(payload, precision, n_clients) for payload in PAYLOADS for precision in PRECISIONS]


def _served(
    served: Served, clients: Clients, ways: Sequence[Way], seconds: float
) -> tuple[dict[Way, Seen], dict[Way, float]]:
    seen, spent = {}, {}
    for way in ways:
        payload, precision, n_clients = way
        before = served.here.daemon_reading().cpu_seconds
        seen[way] = clients.ask(Order(served.here.address, seconds, n_clients, (precision,), payload))
        spent[way] = served.here.daemon_reading().cpu_seconds - before + seen[way].cpu_seconds
    return seen, spent


def run(shared: Path) -> dict[str, float | str]:
    """Needs ../shared."""
    seconds, rounds = (0.6, 1) if is_quick() else (2.0, 7)
    with serving_both(shared) as served:
        bare = {precision: best_bare(served.builds[precision], seconds / 4, 3) for precision in PRECISIONS}
        blocks = measure(served, bare, seconds=seconds, rounds=rounds)
        return {**_machine(served, bare, blocks), **_bars(blocks), **_details(blocks)}


def _machine(
    served: Served, bare: dict[str, BareSession], blocks: dict[int, list[Block]]
) -> dict[str, float | str]:
    every = [block for of_one in blocks.values() for block in of_one]
    lines: dict[str, float | str] = {
        "auto precision is": served.auto,
        "which it says of itself": served.trial,
    }
    for precision, session in bare.items():
        lines[f"bare {precision} session, images/s"] = _median(block.bare[precision] for block in every)
        lines[f"bare {precision} session's best"] = session.name
    return {
        **lines,
        "decoding 500x333 alone, images/s": _median(block.decoding for block in every),
        "bound for JPEG, auto, images/s": _median(block.bound for block in every),
        "plain session, one image, ms": _median(block.lone_ms for block in every),
    }


def _bars(blocks: dict[int, list[Block]]) -> dict[str, float | str]:
    many, one, n = blocks[MOST], blocks[1], f"{MOST} clients"
    fp32, auto, jpeg = ("pixels", "fp32", MOST), ("pixels", "auto", MOST), ("jpeg", "auto", MOST)
    lone = ("pixels", "fp32", 1)
    return {
        f"pixels, fp32, {n} / bare fp32 (at least {PIXELS_FP32_BAR})": _median(
            block.seen[fp32].rate / block.bare["fp32"] for block in many
        ),
        f"pixels, auto, {n} / bare fp32 (at least {PIXELS_AUTO_BAR})": _median(
            block.seen[auto].rate / block.bare["fp32"] for block in many
        ),
        f"pixels, auto, {n} / bare auto": _median(
            block.seen[auto].rate / block.bare["auto"] for block in many
        ),
        f"jpeg, auto, {n} / bound (at least {JPEG_BAR})": _median(
            block.seen[jpeg].rate / block.bound for block in many
        ),
        f"pixels, fp32, 1 client, p50 / plain session (at most {LONE_BAR})": _median(
            block.seen[lone].p50_ms / block.lone_ms for block in one
        ),
    }


def _details(blocks: dict[int, list[Block]]) -> dict[str, float | str]:
    """One line for each path: rate, latencies, and shares of the bare fp32 session."""
    lines: dict[str, float | str] = {}
    for way in [way for n in CLIENTS for way in _ways(n)]:
        payload, precision, n_clients = way
        of_it = [(block, block.seen[way]) for block in blocks[n_clients]]
        rate, p50, p99 = (_median(getattr(seen, what) for _, seen in of_it) for what in FIGURES)
        over = _median(seen.rate / block.bare["fp32"] for block, seen in of_it)
        per_cpu = _median(seen.images / block.cpu_seconds[way] for block, seen in of_it)
        lines[f"{payload}, {precision}, {n_clients} client(s)"] = (
            f"{rate:.0f} images/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms, {over:.2f} of bare fp32, "
            f"{per_cpu:.0f} images a CPU second"
        )
    return lines


def _median(values: Iterable[float]) -> float:
    return round(float(statistics.median(values)), 3)
