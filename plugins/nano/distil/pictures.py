"""The pictures to learn from: photos of an archive, decoded once, and drawn ones that need no archive.

Both end up in one memory-mapped array, so that an epoch reads no file twice and an interrupted run starts
again at once.
"""

from __future__ import annotations

import io
import logging
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

log = logging.getLogger("nano.pictures")

PICTURE_SIDE = 64
NO_CLASS = -1

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pictures:
    """What is learnt from, photos first, row by row."""

    pixels: Pixels
    """(n, 64, 64, 3) RGB"""
    labels: Labels
    """(n,) class of each photo; NO_CLASS for drawn pictures"""

    @property
    def n_classes(self) -> int:
        return int(self.labels.max()) + 1


def load_pictures(archive: Path, cache: Path, n_drawn: int, seed: int) -> Pictures:
    """Photos of `archive` (`<class>/*.JPEG`) in the order of their names, then `n_drawn` drawn pictures."""
    pixels_path, labels_path = cache / "pixels.npy", cache / "labels.npy"
    if not labels_path.exists():
        photos, labels = _decoded(archive)
        drawn = draw_pictures(n_drawn, seed)
        save_whole(pixels_path, np.concatenate([photos, drawn]))
        save_whole(labels_path, np.concatenate([labels, np.full(n_drawn, NO_CLASS)]))
    return Pictures(np.load(pixels_path, mmap_mode="r"), np.load(labels_path))


def save_whole(path: Path, array: npt.NDArray[Any]) -> None:
    """Write under a temporary name first, so that a name that exists is a whole file."""
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        np.save(file, array)
    temporary.replace(path)


def _decoded(archive: Path) -> tuple[Pixels, Labels]:
    log.info("decoding %s", archive.name)
    found: list[tuple[str, Pixels]] = []
    with tarfile.open(archive) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isfile() else None
            if file is not None:
                picture = Image.open(io.BytesIO(file.read())).convert("RGB")
                found.append((member.name, np.asarray(picture.resize((PICTURE_SIDE, PICTURE_SIDE)))))
    found.sort(key=lambda named: named[0])
    _, labels = np.unique([Path(name).parent.name for name, _ in found], return_inverse=True)
    return np.stack([picture for _, picture in found]), labels.astype(np.int64)


# Drawn pictures: strokes, shapes and gratings, because photos of things hold few of them by themselves.


def draw_pictures(n: int, seed: int) -> Pixels:
    """(n, 64, 64, 3): backdrops with a few strokes or shapes; coarse, blurred and grey ones among them."""
    if n == 0:
        return np.empty((0, PICTURE_SIDE, PICTURE_SIDE, 3), np.uint8)
    return np.stack([_drawn(np.random.default_rng((seed, index))) for index in range(n)])


def _drawn(random: np.random.Generator) -> Pixels:
    side = int(random.choice([8, 16, 32, 64, 64, 64]))  # small ones are enlarged: coarse, as old scans are
    scale = 4  # drawn larger, then averaged: smooth edges
    picture = _backdrop(random, side * scale)
    pen = ImageDraw.Draw(picture)
    for _ in range(int(random.integers(1, 7))):
        _draw_one(pen, random, side * scale)
    picture = picture.resize((side, side), Image.Resampling.BOX)
    enlarging = Image.Resampling.NEAREST if random.random() < 0.5 else Image.Resampling.BILINEAR
    picture = picture.resize((PICTURE_SIDE, PICTURE_SIDE), enlarging)
    if random.random() < 0.2:
        picture = picture.filter(ImageFilter.GaussianBlur(float(random.uniform(0.5, 1.5))))
    if random.random() < 0.5:
        picture = picture.convert("L").convert("RGB")
    noisy = np.asarray(picture) + random.normal(0, random.choice([0, 0, 8]), (PICTURE_SIDE, PICTURE_SIDE, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def _backdrop(random: np.random.Generator, side: int) -> Image.Image:
    """A flat colour, a slope between two colours, or stripes."""
    one, other = (_colour(random) for _ in range(2))
    kind = random.random()
    if kind < 0.4:
        return Image.new("RGB", (side, side), one)
    angle, y, x = random.uniform(0, np.pi), *np.mgrid[0:side, 0:side] / side
    along = x * np.cos(angle) + y * np.sin(angle)
    if kind < 0.7:
        along = np.sin(along * random.uniform(5, 60))
    share = ((along - along.min()) / (np.ptp(along) + 1e-6))[..., None]
    return Image.fromarray((share * np.array(one) + (1 - share) * np.array(other)).astype(np.uint8))


def _draw_one(pen: ImageDraw.ImageDraw, random: np.random.Generator, side: int) -> None:
    colour, width = _colour(random), max(1, int(side * random.uniform(0.02, 0.16)))
    centre, spread = random.uniform(0.25, 0.75, 2), random.uniform(0.1, 0.5)
    points = ((centre + random.uniform(-spread, spread, (int(random.integers(2, 6)), 2))) * side).tolist()
    corners = [tuple(point) for point in points]
    (left, right), (top, bottom) = (sorted(float(p[axis]) for p in corners[:2]) for axis in (0, 1))
    start, sweep = random.uniform(0, 360), random.uniform(60, 360)
    match int(random.integers(0, 5)):
        case 0:
            pen.line(corners, fill=colour, width=width, joint="curve")
        case 1:
            pen.arc((left, top, right, bottom), start, start + sweep, fill=colour, width=width)
        case 2:
            pen.ellipse((left, top, right, bottom), fill=colour)
        case 3:
            pen.polygon([*corners, (right, bottom)], fill=colour)
        case _:
            pen.rectangle((left, top, right, bottom), outline=colour, width=width)


def _colour(random: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in random.integers(0, 256, 3))
    return red, green, blue
