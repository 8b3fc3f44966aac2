"""Pictures dropped into the folder of a running daemon: how long until a version that holds them answers.

    dropper = Dropper(here, client, "flowers", probe)
    calm(here, client, ["flowers"])
    print(dropper.drop(files, "daisy").words())

The clock starts when the last byte is written. Which version is live says a file of the daemon's, which is
read every few milliseconds and costs the daemon nothing; once it names a version whose snapshot has grown by
the pictures dropped, the model is asked until that version answers.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.benchmarks.installation import Installation
from tests.flow.daemon_process import wait_until
from tlserve.client import Client
from tlserve.core.lifecycle import Phase
from tlserve.release import Manifest

POLL_SECONDS = 0.005
PATIENCE_SECONDS = 120.0
"""After which a drop counts as never answered."""
LOOK_SECONDS = 0.5
CALM_SECONDS, QUIET_WINDOW_SECONDS = 600.0, 3.0
AT_REST = frozenset({Phase.IDLE.value, Phase.WAITING.value, Phase.FAILED.value})


@dataclass(frozen=True)
class Drop:
    """One drop, and the first version that answered with all of it."""

    label: str
    n_images: int
    seconds: float
    """From the last byte written to the first answer; infinite where there was none."""
    version: int | None = None
    is_instant: bool = False
    accuracy: float | None = None
    """On that version's held-out images."""
    timeline: Mapping[str, float] = field(default_factory=dict)
    """Seconds of each step, from the daemon's first notice on; see `core.timeline`."""

    def words(self) -> str:
        if self.version is None:
            return f"{self.n_images} images into {self.label}: no answer in {PATIENCE_SECONDS:.0f} s"
        kind = "a fast one" if self.is_instant else "from the full recipe"
        told = f"{self.n_images} images into {self.label}: {self.seconds:.2f} s"
        told += f", version {self.version}, {kind}"
        if self.accuracy is not None:
            told += f", {self.accuracy:.2%}"
        return f"{told} ({in_words(self.timeline)})" if self.timeline else told


@dataclass
class Dropper:
    """Drops into one model. probe: a picture of one of its classes, encoded."""

    here: Installation
    client: Client
    model: str
    probe: bytes

    def live(self) -> Manifest:
        """Of the version that is live now, as the state directory says."""
        number = self.here.store.live(self.model).live
        assert number is not None, f"no version of {self.model} is live"
        return self.here.store.manifest(self.model, number)

    def drop(self, files: Sequence[Path], label: str) -> Drop:
        """Copy `files`, none of which the model has, into the class, and wait for the answer."""
        wanted = self.live().n_images + len(files)
        folder = self.here.daemon.watch / self.model / label
        folder.mkdir(exist_ok=True)
        for file in files:
            shutil.copyfile(file, folder / file.name)
        dropped = time.perf_counter()
        version = self._first_answer(wanted, dropped + PATIENCE_SECONDS)
        seconds = time.perf_counter() - dropped
        if version is None:
            self._say_why()
            return Drop(label, len(files), math.inf)
        line = next(line for line in self.client.versions(self.model) if line.version == version)
        return Drop(label, len(files), seconds, version, line.instant, line.accuracy, line.timeline)

    def _first_answer(self, wanted: int, deadline: float) -> int | None:
        """The version with so many images that answered."""
        known: dict[int, int] = {}
        while time.perf_counter() < deadline:
            number = self.here.store.live(self.model).live
            assert number is not None
            if number not in known:
                known[number] = self.here.store.manifest(self.model, number).n_images
            if known[number] < wanted:
                time.sleep(POLL_SECONDS)
            elif self.client.classify(self.model, [self.probe])[0].version == number:
                return number
        return None

    def _say_why(self) -> None:
        print(f"  ! {self.client.model(self.model).message}")
        for line in self.client.versions(self.model)[-3:]:
            print(f"  ! version {line.version}, {line.images} images, {line.state}: {line.reason}")


def wait_live(client: Client, models: Sequence[str], seconds: float) -> None:
    """Wait until all of them answer; fails at once when a pass fails. Looks twice a second."""
    deadline = time.monotonic() + seconds
    while not all(client.ready(model) for model in models):
        for one in client.models():
            assert one.phase != Phase.FAILED.value, f"{one.model}: {one.message}"
        assert time.monotonic() < deadline, f"after {seconds:.0f} s: {', '.join(models)} are not all live"
        time.sleep(LOOK_SECONDS)


def calm(here: Installation, client: Client, models: Sequence[str]) -> None:
    """Wait until nothing is left to do: refinements, reports and exported graphs included."""

    def is_over() -> bool:
        return all(client.model(model).phase in AT_REST and _is_exported(here, model) for model in models)

    deadline = time.monotonic() + CALM_SECONDS
    while True:
        wait_until(is_over, f"{', '.join(models)} at rest", max(1.0, deadline - time.monotonic()))
        here.settle(CALM_SECONDS, window=QUIET_WINDOW_SECONDS)
        if is_over():
            return


def _is_exported(here: Installation, model: str) -> bool:
    number = here.store.live(model).live
    return number is not None and (here.layout.triton / model / str(number) / "model.onnx").exists()


def unlike(files: Iterable[Path]) -> list[Path]:
    """Those whose content no other has, in their order: each of them makes a snapshot grow."""
    digests = {file: hashlib.sha256(file.read_bytes()).digest() for file in files}
    times = Counter(digests.values())
    return [file for file, digest in digests.items() if times[digest] == 1]


def lay_out(files: Iterable[Path], folder: Path) -> None:
    """Copy each to the class in `folder` that its own folder is named after."""
    for file in files:
        (folder / file.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / file.parent.name / file.name)


def each(drops: Sequence[Drop]) -> str:
    """The seconds of all, and how many came from a fast version."""
    fast = sum(drop.is_instant for drop in drops)
    return f"{', '.join(f'{drop.seconds:.2f}' for drop in drops)}; {fast} of {len(drops)} from a fast version"


def median_steps(drops: Sequence[Drop]) -> str:
    """The median of each step, in words."""
    names = dict.fromkeys(name for drop in drops for name in drop.timeline)
    return in_words({name: median(drop.timeline.get(name, 0.0) for drop in drops) for name in names})


def in_words(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in seconds.items())
