"""Many models on one backbone: what each further one costs, in throughput and in memory.

    python -m tests.benchmarks shared_models

Throughput: one daemon serves 200 models; 32 clients ask one of them, then all of them in turns, in
interleaved slices. Memory: daemons with more and more models are started on prepared states, and their
proportional set size is read before and after each model was asked twice; a further model's share is the
slope between the smallest and the largest. The trainer has nothing to do by then.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import onnx

from tests.benchmarks.installation import Installation, drawn_head, is_quick
from tests.benchmarks.serving_clients import METHOD, Clients, Order, grpc_request, pictures
from tlserve.core.head import Dense, Head
from tlserve.release.graph import metadata
from tlserve.runtime import read_build_spec

N_CLIENTS = 32
N_MODELS = 200
MEMORY_MODELS = (1, 1, 1, 200, 1000)
"""One start of a daemon each. Starts differ by 10 MB or so: hence so many models, and 1 more than once."""
MOST_SETTLE_SECONDS = 600.0
THROUGHPUT_BAR, MEMORY_BAR_KB = 0.9, 20
LABELS = ("daisy", "dandelion", "roses", "sunflowers", "tulips")
REPORT = {
    "hardest": [
        {"image": f"{n:064x}", "label": LABELS[n % 5], "probabilities": [n / 200] * 5} for n in range(200)
    ]
}
"""About as large as a trained version's: none of it has a place in the daemon's memory."""


@dataclass(frozen=True)
class Footprint:
    """Proportional set size of a daemon with so many models, in KB."""

    models: int
    ready: float
    """The trainer has done its first look at each model, and nobody asked for anything."""
    asked: float
    """After every model was asked twice."""
    seconds_to_start: float


def name(index: int) -> str:
    return f"model{index:04}"


def head_bytes(head: Head) -> int:
    """What the arrays of a head take."""
    arrays = [
        array for layer in head.layers if isinstance(layer, Dense) for array in (layer.weight, layer.bias)
    ]
    if (block := head.novelty) is not None:
        arrays += [block.mean, block.scale, block.centroids, block.distances, block.ranks]
    return sum(array.nbytes for array in arrays)


def add_models(here: Installation, up_to: int) -> None:
    """Publish what is missing of so many models, as if they had long been served."""
    build, known = here.build(), len(here.store.models())
    spec = read_build_spec(build)
    for index in range(known, up_to):
        model = name(index)
        number = here.publish(model, build, drawn_head(LABELS, index), live=True)
        here.store.complete_report(model, number, REPORT, "<p>drawn</p>")
        # The export that the trainer would make: 9 MB each, which it leaves alone where it is there.
        graph = onnx.helper.make_model(onnx.helper.make_graph([], "drawn", [], []))
        onnx.helper.set_model_props(graph, metadata(here.store.load(model, number), spec))
        export = here.layout.triton / model / str(number)
        export.mkdir(parents=True)
        onnx.save(graph, str(export / "model.onnx"))


def ask_each(here: Installation, n_models: int, times: int = 2) -> None:
    with grpc.insecure_channel(here.address) as channel:
        call = channel.unary_unary(METHOD)
        for turn in range(times):
            for index in range(n_models):
                call(
                    grpc_request(name(index), "pixels", pictures()[(index + turn) % len(pictures())]),
                    timeout=60,
                )


def footprint(here: Installation, n_models: int) -> Footprint:
    add_models(here, n_models)
    seconds = here.start()
    here.settle(MOST_SETTLE_SECONDS)
    # What any daemon needs for its first answers is no model's share.
    ask_each(here, 1, times=40)
    ready = here.daemon_reading().pss_mb * 1024
    ask_each(here, n_models)
    asked = here.daemon_reading().pss_mb * 1024
    here.stop()
    return Footprint(n_models, ready, asked, seconds)


@dataclass(frozen=True)
class Slice:
    """What the clients got in one slice."""

    rate: float
    per_cpu_second: float
    """Images for each second of processor that daemon and clients used: holds on a busy machine too."""


def throughput(here: Installation, *, seconds: float, rounds: int) -> tuple[list[Slice], list[Slice]]:
    """One model, and all in turns: one slice of each a round."""
    add_models(here, N_MODELS)
    everyone = tuple(name(index) for index in range(N_MODELS))
    one: list[Slice] = []
    all_: list[Slice] = []
    here.start()
    here.settle(MOST_SETTLE_SECONDS)
    with Clients() as clients:
        slices = [((name(0),), one), (everyone, all_)]
        for models, _ in slices:
            _slice(here, clients, models, seconds / 4)
        for round_ in range(rounds):
            # Whoever goes second may find the machine warmer: they take turns at that too.
            for models, seen in slices[:: -1 if round_ % 2 else 1]:
                seen.append(_slice(here, clients, models, seconds))
    here.stop()
    return one, all_


def _slice(here: Installation, clients: Clients, models: tuple[str, ...], seconds: float) -> Slice:
    before = here.daemon_reading().cpu_seconds
    seen = clients.ask(Order(here.address, seconds, N_CLIENTS, models))
    spent = here.daemon_reading().cpu_seconds - before + seen.cpu_seconds
    return Slice(seen.rate, seen.images / spent)


def _over(many: Sequence[Slice], one: Sequence[Slice], figure: str) -> float:
    pairs = zip(many, one, strict=True)
    return _median(getattr(of_many, figure) / getattr(of_one, figure) for of_many, of_one in pairs)


def slope(seen: Sequence[Footprint], what: str) -> float:
    """KB of a further model, from the starts with fewest models to those with most."""
    few, many = min(one.models for one in seen), max(one.models for one in seen)
    few_kb, many_kb = (
        statistics.median(getattr(one, what) for one in seen if one.models == n) for n in (few, many)
    )
    return float(many_kb - few_kb) / (many - few)


def _median(values: Iterable[float]) -> float:
    return round(float(statistics.median(values)), 3)


def run(shared: Path) -> dict[str, float | str]:
    """Needs ../shared."""
    quick = is_quick()
    with TemporaryDirectory(prefix="tlserve-bench-") as root, Installation.under(Path(root), shared) as here:
        starts = [footprint(here, n) for n in MEMORY_MODELS if n <= N_MODELS or not quick]
    with TemporaryDirectory(prefix="tlserve-bench-") as root, Installation.under(Path(root), shared) as here:
        one, all_ = throughput(here, seconds=1 if quick else 5, rounds=2 if quick else 7)
    head_kb = head_bytes(drawn_head(LABELS)) / 1024
    lines: dict[str, float | str] = {
        "one model, images/s": _median(seen.rate for seen in one),
        f"{N_MODELS} models in turns, images/s": _median(seen.rate for seen in all_),
        f"{N_MODELS} models over one (at least {THROUGHPUT_BAR})": _over(all_, one, "rate"),
        f"{N_MODELS} models over one, per CPU second": _over(all_, one, "per_cpu_second"),
        "a head's arrays, KB": head_kb,
    }
    for what, bar in (("ready", ""), ("asked", f" (at most {MEMORY_BAR_KB})")):
        lines[f"memory of a further model beyond its head, {what}, KB{bar}"] = slope(starts, what) - head_kb
    for one_of in starts:
        megabytes = f"{one_of.ready / 1024:.1f} MB ready, {one_of.asked / 1024:.1f} MB asked"
        lines[f"{one_of.models} model(s)"] = f"{megabytes}, started in {one_of.seconds_to_start:.2f} s"
    return lines
