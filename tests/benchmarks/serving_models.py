"""Two models of the same photos for the serving benchmarks: one learnt in fp32, one at `precision = auto`.

Both come out of the trainer as users run it, so "auto" is what auto decided here, and both are served by one
daemon, so that their slices can take turns.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from tests.benchmarks.installation import Installation, is_quick
from tests.flow.daemon_process import copy_images
from tlserve.release import VersionStore
from tlserve.runtime import read_build_spec

PRECISIONS = ("fp32", "auto")
"""Also the names of the two models."""
CLASSES = ("daisy", "dandelion", "roses", "sunflowers", "tulips")
PHOTO_SIZE = 500, 333
PHOTO_QUALITY = 92


@dataclass(frozen=True)
class Served:
    """A daemon that serves both models, and what is needed to compare with it."""

    here: Installation
    builds: dict[str, Path]
    """By precision: the build that its model stands on."""
    graph: Path
    """The fp32 model whole, pixels in and probabilities out, as the daemon exports it for others to serve."""
    photos: Path
    """A folder of JPEG files of 500 x 333."""

    @property
    def auto(self) -> str:
        """What auto chose."""
        return read_build_spec(self.builds["auto"]).precision

    @property
    def trial(self) -> str:
        """Why, in its own words."""
        trial = read_build_spec(self.builds["auto"]).trial
        return trial.reason if trial is not None else "nothing"


@contextmanager
def serving_both(shared: Path) -> Iterator[Served]:
    """Trains both models, and serves them until the end of the block; the trainer is idle by then."""
    with TemporaryDirectory(prefix="tlserve-bench-") as folder:
        root = Path(folder)
        with Installation.under(root, shared) as here:
            # Auto first: it never leaves a backbone that the state has cached rows of.
            builds = {precision: _trained(here, shared, precision) for precision in reversed(PRECISIONS)}
            graph = here.layout.triton / "fp32" / "1" / "model.onnx"
            photos = write_photos(shared, root / "photos")
            here.start()
            here.settle()
            yield Served(here, builds, graph, photos)


def _trained(here: Installation, shared: Path, precision: str) -> Path:
    """Learn the model named like its precision; returns the folder of the build that it stands on."""
    folder = here.daemon.watch / precision
    for label in CLASSES:
        copy_images(shared / "datasets/flowers" / label, folder / label, 0, 60 if is_quick() else 200)
    (folder / "model.toml").write_text(f'precision = "{precision}"\n')
    command = [sys.executable, "-m", "tlserve", "train", str(folder), "--state", str(here.layout.root)]
    command += ["--backbone", here.daemon.backbone]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ})
    if done.returncode != 0:
        raise RuntimeError(f"{precision} was not learnt:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    store = VersionStore(here.layout.models)
    number = store.live(precision).live
    assert number is not None
    return here.layout.backbones / store.manifest(precision, number).build


def write_photos(shared: Path, folder: Path, n: int = 48) -> Path:
    """Photos of 500 x 333 in a folder of their own, made of the widest shared ones (480 x 320)."""
    folder.mkdir(parents=True)
    for path in sorted((shared / "datasets/hymenoptera").rglob("*.jpg")):
        with Image.open(path) as photo:
            if photo.width >= 479 and photo.height >= 319 and n:
                n -= 1
                larger = photo.convert("RGB").resize(PHOTO_SIZE, Image.Resampling.LANCZOS)
                larger.save(folder / f"{n:02}.jpg", quality=PHOTO_QUALITY)
    return folder
