"""tlserve beside MLServer and LitServe, serving the same MobileNetV2 graph to the same clients in one run.

    python -m tests.benchmarks rivals

The graph is the one that tlserve exports: raw uint8 pixels in, preprocessing inside. Each rival is first
tried with a few settings of its own documentation, one after the other, and takes part with its fastest. Then
all servers are up, and rounds ask one after the other while the rest are idle. Every server must first give
the same probabilities as tlserve.
"""

from __future__ import annotations

import contextlib
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tests.benchmarks.installation import is_quick
from tests.benchmarks.rivals_answers import probabilities
from tests.benchmarks.rivals_servers import (
    LITSERVE,
    MLSERVER,
    MLSERVER_BYTES,
    Rival,
    Running,
    Setting,
    environment,
    running,
    version,
)
from tests.benchmarks.serving_clients import Clients, Order, pictures
from tests.benchmarks.serving_models import PRECISIONS, Served, serving_both

RIVALS = (MLSERVER, MLSERVER_BYTES, LITSERVE)
BARS = {MLSERVER.name: 4, LITSERVE.name: 3}
N_CLIENTS = 32
SAME = 1e-3
"""Largest difference of a probability: another version of onnxruntime, in other batches."""
WARM_SECONDS = 1.0


def order(up: Running, seconds: float) -> Order:
    return Order(up.address, seconds, N_CLIENTS, ("model",), up.rival.payload, up.rival.protocol)


def fastest(
    rival: Rival, graph: Path, folder: Path, clients: Clients, *, settings: Sequence[Setting], seconds: float
) -> tuple[Setting, dict[str, float]]:
    """The setting with the most images/s, and what each gave."""
    rates: dict[str, float] = {}
    for index, setting in enumerate(settings):
        try:
            with running(rival, setting, graph, folder / str(index)) as up:
                clients.ask(order(up, WARM_SECONDS))
                rates[setting.words] = clients.ask(order(up, seconds)).rate
        except RuntimeError as exc:
            # Its own trouble with this setting; the others may do.
            print(f"  {exc}", flush=True)
            rates[setting.words] = 0.0
    if not any(rates.values()):
        raise RuntimeError(f"{rival.name} answered with none of its settings")
    best = max(settings, key=lambda setting: rates[setting.words])
    return best, rates


def check_same(served: Served, up: Running) -> None:
    """Raises RuntimeError where a rival answers something else than tlserve does."""
    for picture in pictures()[:4]:
        ours = probabilities("grpc", served.here.address, "fp32", "pixels", picture)
        theirs = probabilities(up.rival.protocol, up.address, "model", up.rival.payload, picture)
        if ours.shape != theirs.shape or np.abs(ours - theirs).max() > SAME:
            raise RuntimeError(f"{up.rival.name} answers {theirs}, tlserve {ours}")


def measure(
    served: Served, ups: Sequence[Running], clients: Clients, *, seconds: float, rounds: int
) -> dict[str, list[float]]:
    """Images/s of everybody, one of each a round."""
    orders = {
        f"tlserve {precision}": Order(served.here.address, seconds, N_CLIENTS, (precision,))
        for precision in PRECISIONS
    } | {up.rival.name: order(up, seconds) for up in ups}
    rates: dict[str, list[float]] = defaultdict(list)
    for asked in orders.values():
        clients.ask(replace(asked, seconds=WARM_SECONDS))
    for round_ in range(rounds):
        # Whoever follows a certain other one in every round might suffer from it.
        for name in list(orders)[:: -1 if round_ % 2 else 1]:
            rates[name].append(clients.ask(orders[name]).rate)
    return rates


def run(shared: Path) -> dict[str, float | str]:
    """Needs ../shared, and installs the rivals where they are not (see `rivals_servers`)."""
    seconds, rounds, most = (1.5, 2, 2) if is_quick() else (4.0, 5, None)
    for rival in RIVALS:
        environment(rival.packages)
    with (
        serving_both(shared) as served,
        TemporaryDirectory(prefix="tlserve-bench-") as root,
        Clients() as clients,
        contextlib.ExitStack() as up_until_the_end,
    ):
        best, tried, ups = {}, {}, []
        for index, rival in enumerate(RIVALS):
            best[rival.name], tried[rival.name] = fastest(
                rival,
                served.graph,
                Path(root) / str(index),
                clients,
                settings=rival.settings[-most:] if most else rival.settings,
                seconds=seconds,
            )
        for index, rival in enumerate(RIVALS):
            folder = Path(root) / f"{index}-best"
            ups.append(up_until_the_end.enter_context(running(rival, best[rival.name], served.graph, folder)))
            check_same(served, ups[-1])
        rates = measure(served, ups, clients, seconds=seconds, rounds=rounds)
        return _lines(served, rates, best, tried)


def _lines(
    served: Served,
    rates: dict[str, list[float]],
    best: dict[str, Setting],
    tried: dict[str, dict[str, float]],
) -> dict[str, float | str]:
    lines: dict[str, float | str] = {"auto precision is": served.auto}
    lines |= {f"{name}, images/s": _median(seen) for name, seen in rates.items()}
    for rival in RIVALS:
        bar = f" (at least {BARS[rival.name]})" if rival.name in BARS else ""
        for precision in reversed(PRECISIONS):
            ratio = _median(np.divide(rates[f"tlserve {precision}"], rates[rival.name]))
            lines[f"tlserve {precision} / {rival.name}{bar if precision == 'auto' else ''}"] = ratio
    for rival in RIVALS:
        lines[f"{rival.name} ran as"] = f"{best[rival.name].words}; {version(rival)}"
        grid = sorted(tried[rival.name].items(), key=lambda item: -item[1])
        lines[f"{rival.name}, tried"] = "; ".join(f"{words}: {rate:.0f}" for words, rate in grid)
    return lines


def _median(values: Iterable[float]) -> float:
    return round(float(statistics.median(values)), 3)
