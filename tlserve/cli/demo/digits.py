"""The demo's images: scikit-learn's bundled handwritten digits, as PNG files in class folders.

1,797 pictures of 8 x 8 pixels with 17 shades (UCI, Alpaydin and Kaynak 1998). Only the demo's own process
imports scikit-learn; the daemon never does.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIDE_PIXELS = 64
KEPT_BACK_EVERY = 5
SHADES = 16


@dataclass(frozen=True, slots=True)
class Digit:
    """One picture as a PNG file's bytes."""

    label: str
    file_name: str
    png: bytes


@dataclass(frozen=True, slots=True)
class Digits:
    """Pictures to learn from, and pictures that are only ever asked about."""

    lessons: tuple[Digit, ...]
    questions: tuple[Digit, ...]

    def lessons_of(self, labels: Iterable[str]) -> list[Digit]:
        wanted = set(labels)
        return [digit for digit in self.lessons if digit.label in wanted]

    def questions_of(self, labels: Iterable[str]) -> list[Digit]:
        wanted = set(labels)
        return [digit for digit in self.questions if digit.label in wanted]


def load_digits() -> Digits:
    """All digits; every fifth of each class is kept back for questions."""
    from sklearn import datasets

    bundle = datasets.load_digits()
    lessons: list[Digit] = []
    questions: list[Digit] = []
    for number, name in enumerate(NAMES):
        for index, picture in enumerate(bundle.images[bundle.target == number]):
            side = questions if index % KEPT_BACK_EVERY == 0 else lessons
            side.append(Digit(name, f"{name}-{index:03d}.png", as_png(picture)))
    return Digits(tuple(lessons), tuple(questions))


def as_png(picture: npt.NDArray[np.float64]) -> bytes:
    """An (8, 8) picture with values 0 to 16 as the bytes of a larger PNG file: dark ink on white."""
    from PIL import Image

    shades = (255 - picture * (255 / SHADES)).round().astype(np.uint8)
    image = Image.fromarray(shades).resize((SIDE_PIXELS, SIDE_PIXELS), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def write_class_folders(digits: Sequence[Digit], model_folder: Path) -> None:
    """Write each picture to model_folder/LABEL/FILE, as a person's copy would."""
    for label in {digit.label for digit in digits}:
        (model_folder / label).mkdir(parents=True, exist_ok=True)
    for digit in digits:
        (model_folder / digit.label / digit.file_name).write_bytes(digit.png)
