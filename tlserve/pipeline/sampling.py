"""A few images that stand for many: the same ones whenever the same images are there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from tlserve.core.errors import BadImage
from tlserve.core.types import Pixels
from tlserve.images import ImageDecoder, Picture
from tlserve.plugin_api import ImageSpec
from tlserve.runtime import usable_cores

MOST_FOR_CALIBRATION = 128
"""Pictures that an int8 build is calibrated on: its ranges hardly move beyond them."""
FEWEST_OF_A_CLASS = 4
"""Where the sample has room for it: a class must be learnt in four folds of five."""


class Labelled(Protocol):
    """Of an image, what a sample goes by."""

    @property
    def digest(self) -> str: ...

    @property
    def label(self) -> str: ...


T = TypeVar("T", bound=Labelled)


def spread(images: Sequence[T], most: int, *, of_each: int = FEWEST_OF_A_CLASS) -> list[T]:
    """At most this many of the images: of each class its share, but `of_each` where it has them.

    Which ones, and their order, follows from the digests alone. Where even these are too many, as many
    classes as fit are there, and the others are not.
    """
    sizes = Counter(image.label for image in images)
    places: Counter[str] = Counter()
    ranked: list[tuple[float, int, str, T]] = []
    classes: dict[str, int] = {}
    for image in sorted(images, key=lambda image: image.digest):
        place, own = places[image.label], classes.setdefault(image.label, len(classes))
        places[image.label] += 1
        share = 0.0 if place < of_each else place / sizes[image.label]
        ranked.append((share, own if not share else 0, image.digest, image))
    return [image for *_, image in sorted(ranked, key=lambda one: one[:3])[:most]]


def decoded(files: Sequence[Path], spec: ImageSpec, max_pixels: int) -> Pixels:
    """The pictures in these files as the backbone gets them: (n, H, W, 3) uint8, without what is no image."""
    decoder = ImageDecoder(spec, max_pixels)

    def picture(file: Path) -> Picture | None:
        try:
            return decoder.decode(file.read_bytes())
        except (BadImage, OSError):
            return None

    with ThreadPoolExecutor(usable_cores()) as threads:
        found = [one for one in threads.map(picture, files) if one is not None]
    return np.stack(found) if found else np.empty((0, spec.height, spec.width, 3), np.uint8)
