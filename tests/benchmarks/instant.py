"""The head for now: what it costs beside a hundred times as many images, and how good it is beside the full
recipe. And a full refit from a million rows on the disk: its memory, and its time over one read of them.

    python -m tests.benchmarks instant

The million rows are synthetic: one cloud a class, noise drawn from a bank, float16 in a mapped file. Where
the page cache holds that file, a read of it is as fast as memory; the line says how fast it was.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedKFold

from tests.benchmarks import nano
from tlserve.core.head import Head, apply
from tlserve.core.plan import HeadKind
from tlserve.plugin_api import LAST_TAP
from tlserve.plugin_host import PluginHost
from tlserve.training import ArrayRows, Examples, InstantState, StreamedExamples, TrainedHead, train
from tlserve.training.rows import blocks

FEW, MANY = 10_000, 1_000_000
WIDTH, CLASSES, CHANGED, HELD_OUT = 1_280, 100, 100, 20_000
ROUNDS = 7
BANK = 16_384
BUDGET_SECONDS = 1.0
DROP = 10
TAPS = (LAST_TAP,)
Labels = npt.NDArray[np.str_]
Halves = npt.NDArray[np.float16]


def run(shared: Path = nano.SHARED, n_rows: int = MANY) -> dict[str, str]:
    """Needs ../shared, 3 GB of disk and 4 GB of memory."""
    found = accuracies(shared)
    with tempfile.TemporaryDirectory(prefix="tlserve-bench-") as scratch:
        file = Path(scratch, "rows.npy")
        write_rows(file, n_rows)
        for kind in (HeadKind.RIDGE, HeadKind.SOFTMAX):
            found[f"full refit from {n_rows:,} x {WIDTH:,} rows, {kind}"] = refit_in_a_child(file, kind)
        found |= update_times(file, n_rows)
    return found


# -- cost by what changed


def update_times(file: Path, n_rows: int) -> dict[str, str]:
    """An update by 100 rows and the fit after it, at 10,000 rows and at all, taking turns."""
    rows: Halves = np.load(file, mmap_mode="r")
    held_out = np.asarray(rows[-HELD_OUT:], np.float32)
    fresh = np.asarray(rows[-HELD_OUT - ROUNDS * CHANGED : -HELD_OUT], np.float32)
    first = n_rows - HELD_OUT - ROUNDS * CHANGED
    states, lives, builds = {}, {}, {}
    for n in (FEW, first):
        began = time.perf_counter()
        states[n] = InstantState.build(ArrayRows(rows[:n]), labelled(0, n), TAPS, snapshot_id="0")
        builds[n] = time.perf_counter() - began
        lives[n] = fit(states[n], None, held_out).head
    seconds: dict[int, list[float]] = {n: [] for n in states}
    apart: dict[int, list[float]] = {n: [] for n in states}
    for turn in range(ROUNDS):
        part = fresh[turn * CHANGED : (turn + 1) * CHANGED]
        images = labelled(first + turn * CHANGED, first + (turn + 1) * CHANGED)
        for n, state in states.items():
            began = time.perf_counter()
            # Half of the rows are new, half were there: these leave.
            gone = labelled(turn * CHANGED // 2, (turn + 1) * CHANGED // 2)
            new = images[: CHANGED // 2]
            both = np.concatenate(
                [part[: CHANGED // 2], rows[turn * CHANGED // 2 : (turn + 1) * CHANGED // 2]]
            )
            state.update(new, gone, ArrayRows(both), snapshot_id=str(turn + 1))
            trained = fit(state, lives[n], held_out)
            lives[n] = trained.head
            seconds[n].append(time.perf_counter() - began - trained.report["novelty_seconds"])
            apart[n].append(trained.report["novelty_seconds"])
    few, many = median(seconds[FEW]), median(seconds[first])
    return {
        f"update and fit, {CHANGED} rows changed, {first:,} rows over {FEW:,}": (
            f"{many / few:.2f} (bar 1.5; {many:.3f} s and {few:.3f} s, median of {ROUNDS}; the scale of "
            f"novelty on {HELD_OUT:,} held-out rows apart: {median(apart[first]):.3f} s "
            f"and {median(apart[FEW]):.3f} s)"
        ),
        f"building the state of {first:,} rows": (
            f"{builds[first]:.1f} s, keeps {states[first].nbytes / 2**20:.0f} MB; {FEW:,}: "
            f"{builds[FEW]:.2f} s, {states[FEW].nbytes / 2**20:.0f} MB"
        ),
    }


def fit(state: InstantState, live: Head | None, held_out: Any) -> TrainedHead:
    """Ridge at either size: at 10,000 rows there is no time for more than a hundred classes either."""
    return state.fit(state.names, BUDGET_SECONDS, live, warm_kind=HeadKind.RIDGE, held_out_rows=held_out)


# -- a refit of everything


def refit_in_a_child(file: Path, kind: HeadKind) -> str:
    """A process of its own, so that its memory is its own."""
    command = [sys.executable, "-m", "tests.benchmarks.instant", str(file), kind.value]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return (
        f"peak anonymous memory {told['peak_gb']:.2f} GB (bar 6), {told['before_gb']:.2f} GB before; "
        f"{told['seconds']:.0f} s, {told['passes']} passes, {told['seconds'] / told['read']:.0f} times one "
        f"read of the rows ({told['read']:.1f} s); {told['accuracy']:.1%} on {HELD_OUT:,} other rows"
    )


def refit(file: Path, kind: HeadKind) -> dict[str, float]:
    """What the child does."""
    rows: Halves = np.load(file, mmap_mode="r")
    n = len(rows) - HELD_OUT
    source, held_out = ArrayRows(rows[:n]), np.asarray(rows[n:], np.float32)
    began = time.perf_counter()
    for _, block in blocks(source):
        block.sum()
    read = time.perf_counter() - began
    labels = [label for _, label in labelled(0, n)]
    before = anonymous_bytes()
    with peak() as highest:
        examples = StreamedExamples.of(source, labels)
        trained = train(examples, TAPS, kinds=(kind,), held_out_rows_for_novelty=held_out)
    truth = np.array([label for _, label in labelled(n, len(rows))])
    right = np.array(trained.head.labels)[apply(trained.head, held_out).argmax(axis=1)] == truth
    return {
        "peak_gb": highest[0] / 1e9,
        "before_gb": before / 1e9,
        "seconds": trained.report["seconds"],
        "passes": trained.report["n_passes"],
        "read": read,
        "accuracy": float(right.mean()),
    }


@contextmanager
def peak() -> Iterator[list[int]]:
    """The most anonymous memory that this process has meanwhile, in bytes, as the only element."""
    found, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            found[0] = max(found[0], anonymous_bytes())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def write_rows(file: Path, n_rows: int) -> None:
    random = np.random.default_rng(0)
    centres = random.normal(0, 0.12, (CLASSES, WIDTH)).astype(np.float32)
    bank = random.normal(0, 1, (BANK, WIDTH)).astype(np.float32)
    out = np.lib.format.open_memmap(file, mode="w+", dtype=np.float16, shape=(n_rows, WIDTH))
    for begin in range(0, n_rows, BANK):
        at = np.arange(begin, min(begin + BANK, n_rows))
        out[at] = centres[class_of(at)] + bank[random.permutation(BANK)[: len(at)]]
    out.flush()


def class_of(at: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    return np.asarray((at * 7919) % CLASSES)


def labelled(begin: int, end: int) -> list[tuple[str, str]]:
    at = np.arange(begin, end)
    return [(f"{n:08x}", f"class {c:03}") for n, c in zip(at.tolist(), class_of(at).tolist(), strict=True)]


# -- accuracy


def accuracies(shared: Path) -> dict[str, str]:
    """On five held-out fifths, after a drop of ten images: what is live at once, and the full recipe."""
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        backbone = PluginHost().load(f"onnx:{shared / nano.TEACHER}")
        session = nano.opened(backbone, Path(scratch))
        for name in ("flowers", "hymenoptera"):
            files, labels = nano.folder(shared / "datasets" / name)
            rows = nano.rows(session, files)[:, session.spec.columns(TAPS)]
            found[f"{name}, instant less refined"] = beside_refined(rows, labels)
    return found


def beside_refined(rows: nano.Floats, labels: Labels) -> str:
    instant, ridge, refined, taken, seconds = [], [], [], [], []
    for learnt, held in StratifiedKFold(5, shuffle=True, random_state=0).split(rows, labels):
        one = after_a_drop(rows, labels, learnt, held)
        instant.append(one[0])
        ridge.append(one[1])
        refined.append(one[2])
        taken.append(one[3].kind.value)
        seconds.append(one[3].report["seconds"])
    points = 100 * (np.mean(instant) - np.mean(refined))
    alone = 100 * (np.mean(ridge) - np.mean(refined))
    return (
        f"{points:+.2f} points (bar within 1; ridge alone {alone:+.2f}), refined "
        f"{100 * np.mean(refined):.2f} %; took {', '.join(sorted(set(taken)))}, {median(seconds):.2f} s"
    )


def after_a_drop(
    rows: nano.Floats, labels: Labels, learnt: npt.NDArray[np.intp], held: npt.NDArray[np.intp]
) -> tuple[float, float, float, TrainedHead]:
    """Accuracy of the instant head, of ridge alone, and of the refined head; and the instant head."""
    shuffled = np.random.default_rng(0).permutation(learnt)
    before, drop = shuffled[DROP:], shuffled[:DROP]
    # By position: two files may hold one picture.
    images = np.array([f"{n:08x}" for n in range(len(rows))])
    live = train(Examples.of(rows[before], labels[before].tolist()), TAPS)
    state = InstantState.build(
        ArrayRows(rows[before]), named(images[before], labels[before]), TAPS, snapshot_id="before"
    )
    state.update(named(images[drop], labels[drop]), [], ArrayRows(rows[drop]), snapshot_id="after")
    at_once = state.fit(
        state.names, BUDGET_SECONDS, live.head, warm_setting=live.report["C"], held_out_rows=rows[held]
    )
    alone = state.fit(state.names, 0.0, live.head, held_out_rows=rows[held])
    full = train(Examples.of(rows[learnt], labels[learnt].tolist()), TAPS)
    scores = [accuracy(one.head, rows[held], labels[held]) for one in (at_once, alone, full)]
    return scores[0], scores[1], scores[2], at_once


def named(digests: Labels, labels: Labels) -> Sequence[tuple[str, str]]:
    return list(zip(digests.tolist(), labels.tolist(), strict=True))


def accuracy(head: Head, rows: nano.Floats, truth: Labels) -> float:
    return float((np.array(head.labels)[apply(head, rows).argmax(axis=1)] == truth).mean())


if __name__ == "__main__":
    print(json.dumps(refit(Path(sys.argv[1]), HeadKind(sys.argv[2]))))
