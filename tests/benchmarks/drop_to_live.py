"""Seconds from the last byte of ten dropped pictures to the first answer by a version that holds them all.

    python -m tests.benchmarks drop_to_live

A real daemon on a fresh state learns flowers on the shared MobileNetV2, all but the pictures that are
dropped later. Once it has nothing left to do (its studies are switched off, its reports and exports are
over), ten pictures are dropped, five times, then classes that it has never seen; between two drops it may
come to rest, so that the fast version's refinement is over too. Settling, judging and writing everything
durably are included.

Beside it the script that people write: the same ten pictures dropped into the same folder, and everything
learnt from scratch.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from tests.benchmarks.dropping import (
    Drop,
    Dropper,
    calm,
    each,
    in_words,
    lay_out,
    median_steps,
    unlike,
    wait_live,
)
from tests.benchmarks.installation import Installation, is_quick
from tlserve.runtime import read_build_spec

MODEL = "flowers"
DROPS, QUICK_DROPS, RIVAL_RUNS = 5, 2, 3
IMAGES, NEW_CLASS_IMAGES = 10, 20
BAR_SECONDS, NEW_CLASS_BAR_SECONDS, BAR_POINTS = 1.0, 1.5, -0.5
IMPORT_SECONDS = 600.0
QUICK_IMAGES = 40
"""Of each class, in a trial run."""
SCRIPT = Path(__file__).parent / "rivals" / "retrain_from_scratch.py"
Batch = tuple[str, list[Path]]
"""A class, and what is dropped into it at once."""


def run(shared: Path) -> dict[str, float | str]:
    """Needs ../shared."""
    with TemporaryDirectory(prefix="tlserve-bench-") as root:
        pictures = Pictures.of(shared, Path(root) / "new")
        lines = in_tlserve(Path(root), shared, pictures)
        lines |= from_scratch(Path(root), shared, pictures)
    ours, theirs = (float(lines[what]) for what in (_ten_words(len(pictures.drops)), _SCRATCH))
    return lines | {"that over tlserve's drop to live": theirs / ours}


@dataclass(frozen=True)
class Pictures:
    """What is there from the beginning, and what is dropped."""

    first: list[Path]
    drops: list[Batch]
    """Pictures of flowers that nothing else is like, each time of another class."""
    new_classes: list[Batch]

    @classmethod
    def of(cls, shared: Path, scratch: Path) -> Pictures:
        n_drops = QUICK_DROPS if is_quick() else DROPS
        by_class: dict[str, list[Path]] = defaultdict(list)
        files = sorted((shared / "datasets/flowers").rglob("*.jpg"))
        for file in unlike(files):
            by_class[file.parent.name].append(file)
        labels, drops = sorted(by_class), []
        for index in range(n_drops):
            label = labels[index % len(labels)]
            drops.append((label, [by_class[label].pop() for _ in range(IMAGES)]))
        aside = {file for _, batch in drops for file in batch}
        first = [file for file in files if file not in aside]
        if is_quick():
            first = [file for label in labels for file in by_class[label][:QUICK_IMAGES]]
        tar = shared / "datasets/tiny_imagenet_40k.tar"
        return cls(first, drops, new_classes(tar, scratch, n_drops))


def new_classes(tar: Path, folder: Path, n_classes: int) -> list[Batch]:
    """Photos of things that are no flowers, enlarged to the size of the flowers, as JPEG files."""
    found: dict[str, list[Path]] = defaultdict(list)
    with tarfile.open(tar) as archive:
        for member in archive:
            label = member.name.split("/")[0]
            if not member.isfile() or len(found[label]) == NEW_CLASS_IMAGES:
                continue
            if len(found) > n_classes:
                break
            data = archive.extractfile(member)
            assert data is not None
            path = folder / label / Path(member.name).with_suffix(".jpg").name
            path.parent.mkdir(parents=True, exist_ok=True)
            image = Image.open(io.BytesIO(data.read())).convert("RGB")
            image.resize((256, 256), Image.Resampling.BICUBIC).save(path, quality=90)
            found[label].append(path)
    return list(found.items())[:n_classes]


def in_tlserve(root: Path, shared: Path, pictures: Pictures) -> dict[str, float | str]:
    """The lines of the daemon's part."""
    with Installation.under(root, shared, env={"TLSERVE_STUDY": "false"}) as here:
        lay_out(pictures.first, here.daemon.watch / MODEL)
        here.start()
        with here.client() as client:
            wait_live(client, [MODEL], IMPORT_SECONDS)
            dropper = Dropper(here, client, MODEL, pictures.first[0].read_bytes())
            calm(here, client, [MODEL])
            start = dropper.live()
            spec = read_build_spec(here.layout.backbones / start.build)
            drops = series(dropper, pictures.drops)
            calm(here, client, [MODEL])
            refined = dropper.live()
            classes = series(dropper, pictures.new_classes)
        here.stop()
    new_class = f"a new class of {NEW_CLASS_IMAGES} images: median of {len(classes)}, s"
    return {
        "flowers live, studies switched off": f"{start.n_images:,} images, {spec.precision}",
        _ten_words(len(drops)): median(drop.seconds for drop in drops),
        "each, s": each(drops),
        "its steps, medians, s": median_steps(drops),
        **accuracy(start.accuracy, drops[-1].accuracy, refined.accuracy),
        f"{new_class} (at most {NEW_CLASS_BAR_SECONDS:g})": median(drop.seconds for drop in classes),
        "each of those, s": each(classes),
        "steps of those, medians, s": median_steps(classes),
    }


def _ten_words(n: int) -> str:
    return f"{IMAGES} images: last byte to first answer, median of {n}, s (at most {BAR_SECONDS:g})"


def series(dropper: Dropper, batches: Sequence[Batch]) -> list[Drop]:
    """One drop after the other, each into a daemon that has come to rest."""
    found = []
    for label, files in batches:
        calm(dropper.here, dropper.client, [dropper.model])
        found.append(dropper.drop(files, label))
        print(f"  {found[-1].words()}", flush=True)
    return found


def accuracy(start: float | None, after: float | None, refined: float | None) -> dict[str, float | str]:
    """On the held-out images that each version was judged on."""
    if start is None or after is None or refined is None:
        return {"accuracy": "not known"}
    return {
        "held-out accuracy: before; by the last drop's first version; refined": (
            f"{start:.2%}; {after:.2%}; {refined:.2%}"
        ),
        f"gained by that first version, points (at least {BAR_POINTS:g})": 100 * (after - start),
        "gained once refined, points": 100 * (refined - start),
    }


_SCRATCH = "retrain from scratch, the same ten images, s"


def from_scratch(root: Path, shared: Path, pictures: Pictures) -> dict[str, float | str]:
    """The lines of the script, each run of which finds ten more pictures in the folder."""
    folder = root / "scratch"
    lay_out(pictures.first, folder)
    seconds, parts = [], []
    for _, files in pictures.drops[: 1 if is_quick() else RIVAL_RUNS]:
        lay_out(files, folder)
        took, told = _run_script(folder, shared, root / "model.pickle", files[0])
        seconds.append(took)
        parts.append({"start": took - sum(told["seconds"].values()), **told["seconds"]})
        print(f"  from scratch, {told['images']} images: {took:.2f} s ({in_words(parts[-1])})", flush=True)
    steps = {name: median(part[name] for part in parts) for name in parts[0]}
    return {_SCRATCH: median(seconds), "of which, medians, s": in_words(steps)}


def _run_script(folder: Path, shared: Path, saved: Path, probe: Path) -> tuple[float, dict[str, Any]]:
    """(seconds until it had printed its answer, what that was)."""
    backbone = shared / "backbones/mobilenet_v2_imagenet.onnx"
    command = [sys.executable, str(SCRIPT), str(folder), str(backbone), str(saved), str(probe)]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - began
    assert process.returncode == 0, "the script failed"
    return seconds, json.loads(line)


if __name__ == "__main__":
    found = run(Path(__file__).resolve().parents[3] / "shared")
    print(*(f"{what}: {value}" for what, value in found.items()), sep="\n")
