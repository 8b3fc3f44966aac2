"""Ten models retraining at once, one of them large: how long a small one takes from drop to live meanwhile.

    python -m tests.benchmarks ten_models

One daemon. Nine small models of flowers are live; then thousands of files nobody has seen appear as a tenth,
and every other model is asked to retrain, again and again, whenever it has nothing to do: while ten pictures
are dropped into one of the small ones, all ten are at work or wait for their turn. The same drop into the
resting daemon comes before, for comparison. In the end the large one must have gone through the backbone
once, however often it made room.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from PIL import Image

from tests.benchmarks.dropping import (
    AT_REST,
    Drop,
    Dropper,
    calm,
    each,
    lay_out,
    median_steps,
    unlike,
    wait_live,
)
from tests.benchmarks.installation import Installation, is_quick
from tests.flow.daemon_process import wait_until
from tlserve.client import Client

BAR_SECONDS = 3.0
LARGE, SMALLS = "large", tuple(f"small-{index}" for index in range(9))
SMALL = SMALLS[0]
VARIANTS = 2
"""Of each flower, in the large model."""
QUICK_LARGE = 300
CLASSES, PER_CLASS = ("tulips", "daisy", "roses"), 50
"""Of the small models: enough to decide on the precision, which is over before the large one comes."""
DROPS, RESTING_DROPS, QUICK_DROPS = 6, 3, 2
IMAGES = 10
START_SECONDS, LARGE_SECONDS = 300.0, 900.0
PAUSE_SECONDS = (0.5, 2.0)
"""Between a drop's answer and the next drop, drawn evenly: it may come at any moment of the others' work."""
ASK_SECONDS = 0.2
"""Between two looks for models that have nothing to do."""


def run(shared: Path) -> dict[str, float | str]:
    """Needs ../shared."""
    flowers = sorted((shared / "datasets/flowers").rglob("*.jpg"))
    with TemporaryDirectory(prefix="tlserve-bench-") as root:
        n_large = large_folder(flowers, Path(root) / LARGE)
        with Installation.under(Path(root), shared, env={"TLSERVE_STUDY": "false"}) as here:
            aside = small_folders(flowers, here.daemon.watch)
            here.start()
            with here.client() as client:
                dropper = Dropper(here, client, SMALL, aside[0].read_bytes())
                return measured(dropper, aside, n_large)


def large_folder(flowers: Sequence[Path], folder: Path) -> int:
    """Flowers with a rim cut off, in other JPEG files: content that no cache knows. Returns how many."""
    wanted = [(file, rim) for rim in range(1, VARIANTS + 1) for file in flowers]
    if is_quick():
        wanted = wanted[:: len(wanted) // QUICK_LARGE]

    def written(file: Path, rim: int) -> Path:
        path = folder / file.parent.name / f"{file.stem}-{rim}.jpg"
        with Image.open(file) as image:
            cut = image.convert("RGB").crop((4 * rim, 4 * rim, image.width, image.height))
        cut.save(path, quality=88 + rim)
        return path

    for label in {file.parent.name for file in flowers}:
        (folder / label).mkdir(parents=True)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return len(unlike(threads.map(lambda one: written(*one), wanted)))


def small_folders(flowers: Sequence[Path], watch: Path) -> list[Path]:
    """Fill them with different flowers; returns those that are dropped later, all of one class."""
    single = unlike(flowers)
    left = {label: [file for file in single if file.parent.name == label] for label in CLASSES}
    for model in SMALLS:
        for files in left.values():
            lay_out([files.pop() for _ in range(PER_CLASS)], watch / model)
    return left[CLASSES[0]]


def measured(dropper: Dropper, aside: list[Path], n_large: int) -> dict[str, float | str]:
    """aside: pictures of the first class that no model has; n_large: how many the tenth model brings."""
    here, client = dropper.here, dropper.client
    n_drops, n_resting = (QUICK_DROPS, 1) if is_quick() else (DROPS, RESTING_DROPS)
    wait_live(client, SMALLS, START_SECONDS)
    resting = []
    for _ in range(n_resting):
        calm(here, client, SMALLS)
        resting.append(_dropped(dropper, aside, "at rest"))
    calm(here, client, SMALLS)
    passed_before = here.daemon.metric("tlserve_backbone_images_total")

    began, storm = time.time(), Storm(client)
    (here.layout.root.parent / LARGE).rename(here.daemon.watch / LARGE)
    wait_until(storm.keep_on, "all ten are at work", START_SECONDS)
    dice, drops, full = random.Random(0), [], 0
    for _ in range(n_drops):
        storm.rage(dice.uniform(*PAUSE_SECONDS))
        full += storm.keep_on()
        drops.append(_dropped(dropper, aside, storm.words()))

    wait_until(
        lambda: client.ready(LARGE) and _images(here)[-1][1] >= n_large, "all is learnt", LARGE_SECONDS
    )
    passed = here.daemon.metric("tlserve_backbone_images_total") - passed_before
    here.stop()
    whole = next(created for created, n_images in _images(here) if n_images >= n_large)
    seconds = f"{_images(here)[0][0] - began:.0f}; {whole - began:.0f}"
    what = f"{IMAGES} images into a small model of ten at work: median of {n_drops}, s"
    return {
        f"{what} (at most {BAR_SECONDS:g})": median(drop.seconds for drop in drops),
        "each, s": each(drops),
        "its steps, medians, s": median_steps(drops),
        "all ten at work when it was dropped": f"{full} of {n_drops} times",
        f"into the resting daemon, median of {n_resting}, s": median(drop.seconds for drop in resting),
        "steps of those, medians, s": median_steps(resting),
        f"the large one, {n_large:,} images: first version; with all images, s": seconds,
        "images passed through the backbone over new ones": passed / (n_large + IMAGES * n_drops),
    }


def _dropped(dropper: Dropper, aside: list[Path], circumstances: str) -> Drop:
    drop = dropper.drop([aside.pop() for _ in range(IMAGES)], CLASSES[0])
    print(f"  {circumstances}: {drop.words()}", flush=True)
    return drop


def _images(here: Installation) -> list[tuple[float, int]]:
    """(Unix time, images) of each published version of the large model, the oldest first."""
    manifests = [here.store.manifest(LARGE, number) for number in here.store.versions(LARGE)]
    return [(manifest.created, manifest.n_images) for manifest in manifests]


@dataclass
class Storm:
    """Asks every model to retrain as soon as it has nothing to do."""

    client: Client

    def keep_on(self) -> bool:
        """Whether all ten were at work, or waited for their turn, before anything was asked now."""
        models = self.client.models()
        resting = [one.model for one in models if one.phase in AT_REST]
        for model in resting:
            self.client.retrain(model)
        return len(models) == 1 + len(SMALLS) and not resting

    def rage(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.keep_on()
            time.sleep(ASK_SECONDS)

    def words(self) -> str:
        """What the models do now."""
        phases = {one.model: one.phase for one in self.client.models()}
        others = Counter(phase for model, phase in phases.items() if model not in (SMALL, LARGE))
        told = ", ".join(f"{n} {phase}" for phase, n in others.most_common())
        return f"{LARGE} {phases[LARGE]}, {SMALL} {phases[SMALL]}, others {told}"
