"""Hours of ordinary life in as many minutes as one has: does memory stay, and is every answer right?

    python -m tests.benchmarks.soak --minutes 60 --log soak.log

A real daemon under a moderate load of checked requests (pixels and JPEG, a dozen models on two backbones, now
and then no picture at all), while heads are swapped every ten seconds and a backbone every few minutes,
and pictures are dropped into a folder every minute, with a retraining each. One line a minute goes to the
log, and a summary at the end, also when it is ended early by SIGTERM or Ctrl-C.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from tests.benchmarks.answer_key import AnswerKey
from tests.benchmarks.checking_clients import CheckingClients, Order
from tests.benchmarks.head_swaps import CLASS_SETS
from tests.benchmarks.installation import Installation, drawn_head, is_quick
from tests.benchmarks.soak_record import Minute, Sample, Soaked
from tests.flow.daemon_process import copy_images, wait_until
from tlserve.client import Client

SWAPPED, REBUILT, DROPPED = "swapped", "rebuilt", "flowers"
"""The models whose heads change, whose backbone changes, and whose folder grows."""
QUIET_MODELS = tuple(f"quiet{index:02}" for index in range(10))
REBUILDS = (0.0, 4.0, 8.0)
"""Mean pixel shifts of the builds that `REBUILT` goes through."""
CLASSES = ("daisy", "dandelion", "roses", "sunflowers", "tulips")
BENCH_MINUTES, QUICK_MINUTES = 5.0, 1.5
PER_SECOND, N_CLIENTS, BAD_EVERY = 40.0, 8, 50
FIRST_IMAGES, DROP_IMAGES = 40, 2
"""Of each class: to begin with, and in each drop."""
SAMPLE_SECONDS, SWAP_SECONDS, ASK_SECONDS, DROP_SECONDS = 5.0, 10.0, 1.0, 60.0
MINUTE = 60.0


@dataclass
class Chore:
    """Something that is due again and again."""

    every_seconds: float
    what: Callable[[], None]
    due: float = 0.0


@dataclass
class Soak:
    """One run; `errors` counts everything that should not have happened."""

    here: Installation
    client: Client
    shared: Path
    clients: CheckingClients
    minutes: float
    per_second: float
    log: TextIO
    stop: threading.Event
    soaked: Soaked = field(default_factory=Soaked)

    def run(self) -> Soaked:
        """Until the time is over or `stop` is set."""
        began = time.monotonic()
        end = began + self.minutes * MINUTE
        chores = self._chores(began)
        order = Order(
            min(MINUTE, self.minutes * MINUTE) - 1,
            N_CLIENTS,
            (SWAPPED, REBUILT, *QUIET_MODELS),
            ("pixels", "image"),
            per_second=self.per_second,
            bad_every=BAD_EVERY,
        )
        for minute in itertools.count(1):
            if time.monotonic() >= end or self.stop.is_set():
                break
            self.clients.start(order)
            self._until(min(began + minute * MINUTE, end), chores)
            if not self.stop.is_set():
                self._minute(minute)
        return self.soaked

    def _chores(self, began: float) -> list[Chore]:
        versions = itertools.cycle((*range(2, len(CLASS_SETS) + 1), 1))
        builds = itertools.cycle((2, 3, 1))
        rebuild = max(60.0, self.minutes * MINUTE / 12)
        drops = self._drops()
        chores = [
            Chore(SAMPLE_SECONDS, lambda: self.soaked.samples.append(self._sample(began))),
            Chore(ASK_SECONDS, self._ask),
            Chore(SWAP_SECONDS, lambda: self._promote(SWAPPED, next(versions))),
            Chore(DROP_SECONDS, lambda: next(drops)),
            Chore(rebuild, lambda: self._promote(REBUILT, next(builds))),
        ]
        for chore in chores:
            chore.due = began + chore.every_seconds / 2
        return chores

    def _until(self, end: float, chores: list[Chore]) -> None:
        while (now := time.monotonic()) < end and not self.stop.is_set():
            chore = min(chores, key=lambda one: one.due)
            if chore.due > now:
                self.stop.wait(min(chore.due, end) - now)
                continue
            try:
                chore.what()
            except Exception as exc:
                self.soaked.error(repr(exc))
            chore.due = max(chore.due + chore.every_seconds, time.monotonic())

    # -- what goes on

    def _promote(self, model: str, version: int) -> None:
        line = self.client.promote(model, str(version))
        if (line.version, line.state) != (version, "live"):
            raise AssertionError(f"{model} {version} was promoted, {line.version} is {line.state}")
        self.soaked.promotions += 1

    def _drops(self) -> Iterator[None]:
        """Each step drops a few new pictures of every class, as long as there are any."""
        for start in itertools.count(FIRST_IMAGES, DROP_IMAGES):
            for label in CLASSES:
                source = self.shared / "datasets/flowers" / label
                copy_images(source, self.here.daemon.watch / DROPPED / label, start, start + DROP_IMAGES)
            self.soaked.drops += 1
            yield

    def _ask(self) -> None:
        """What was trained meanwhile answers with one of its own classes."""
        label = CLASSES[self.soaked.asked % len(CLASSES)]
        photo = next((self.shared / "datasets/flowers" / label).iterdir())
        (told,) = self.client.classify(DROPPED, [photo])
        if told.label not in CLASSES or told.model != DROPPED:
            raise AssertionError(f"an answer by {told.model} {told.version}: {told.label}")
        self.soaked.asked += 1
        self.soaked.trained.add(told.version)

    # -- what is written down

    def _sample(self, began: float) -> Sample:
        assert self.here.daemon.process is not None
        if self.here.daemon.process.poll() is not None:
            self.stop.set()
            raise AssertionError("the daemon died")
        return Sample(time.monotonic() - began, self.here.daemon_reading(), self.here.trainer_reading())

    def _minute(self, number: int) -> None:
        seen = self.clients.seen()
        self.soaked.count(seen)
        line = Minute(number, seen, self.soaked).in_words()
        print(line, file=self.log, flush=True)


def soak(
    shared: Path, minutes: float, log: TextIO, stop: threading.Event, *, per_second: float = PER_SECOND
) -> dict[str, float | str]:
    """Run it, write the summary to `log` too, and return it."""
    with (
        tempfile.TemporaryDirectory(prefix="tlserve-soak-") as root,
        Installation.under(Path(root), shared) as here,
    ):
        key = _prepare(here, shared, Path(root))
        here.start()
        with CheckingClients(here.address, key) as clients, here.client() as client:
            wait_until(lambda: stop.is_set() or client.ready(DROPPED), "the flowers went live", 300)
            soaked = Soak(here, client, shared, clients, minutes, per_second, log, stop).run()
            for words in troubles(here):
                soaked.error(words)
            if here.daemon.process is not None and here.daemon.process.poll() is None:
                here.stop()
    told = soaked.told(minutes)
    for what, value in told.items():
        shown = value if isinstance(value, str) else round(value, 3)
        print(f"  {what}: {shown}", file=log, flush=True)
    return told


def _prepare(here: Installation, shared: Path, root: Path) -> Path:
    """Versions of the drawn models, pictures of the trained one; returns the folder of the answer key."""
    for seed, labels in enumerate(CLASS_SETS):
        here.publish(SWAPPED, here.build(), drawn_head(labels, seed), live=seed == 0)
    for seed, shift in enumerate(REBUILDS):
        here.publish(
            REBUILT, here.build(shift=shift), drawn_head(CLASS_SETS[seed], 50 + seed), live=seed == 0
        )
    for seed, model in enumerate(QUIET_MODELS):
        here.publish(model, here.build(), drawn_head(CLASS_SETS[seed % 3], 100 + seed), live=True)
    for label in CLASSES:
        source = shared / "datasets/flowers" / label
        copy_images(source, here.daemon.watch / DROPPED / label, 0, FIRST_IMAGES)
    photos = sorted((shared / "datasets/flowers").rglob("*.jpg"))[::31][:24]
    models = (SWAPPED, REBUILT, *QUIET_MODELS)
    AnswerKey.of(photos, here.store, here.layout.backbones, models).save(root / "key")
    return root / "key"


def troubles(here: Installation) -> list[str]:
    """What the daemon itself counted or logged as gone wrong."""
    log = here.daemon.log.read_text().splitlines()
    found = [line for line in log if " ERROR " in line or "Traceback" in line]
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{here.daemon.metrics_port}/metrics") as answer:
            lines = answer.read().decode().splitlines()
    except OSError as exc:
        return [*found, f"no metrics: {exc}"]
    for line in lines:
        counted = line.startswith("tlserve_trainer_restarts_total") or (
            line.startswith("tlserve_passes_total") and 'outcome="failed"' in line
        )
        if counted and float(line.rsplit(" ", 1)[1]) > 0:
            found.append(line)
    return found


@contextmanager
def ended_by_signals() -> Iterator[threading.Event]:
    """An event that the first SIGTERM or SIGINT sets; the second one ends the process as usual."""
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def end(number: int, _: object) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, end)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(shared: Path) -> dict[str, float | str]:
    """Five minutes of it; needs ../shared."""
    with ended_by_signals() as stop:
        return soak(shared, QUICK_MINUTES if is_quick() else BENCH_MINUTES, sys.stdout, stop)


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.benchmarks.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=BENCH_MINUTES)
    parser.add_argument("--per-second", type=float, default=PER_SECOND, help="requests a second, in all")
    parser.add_argument("--log", type=Path, help="where to write; the terminal otherwise")
    parser.add_argument("--shared", type=Path, default=Path(__file__).resolve().parents[3] / "shared")
    given = parser.parse_args()
    log = given.log.open("a") if given.log else sys.stdout
    with ended_by_signals() as stop:
        told = soak(given.shared, given.minutes, log, stop, per_second=given.per_second)
    sys.exit(0 if told["errors (0)"] == 0 else 1)


if __name__ == "__main__":
    main()
