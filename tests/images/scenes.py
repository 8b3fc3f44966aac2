"""Pictures to change, and what a change can be told by."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from tlserve.core.augmentation import Augmentation
from tlserve.core.view_steps import Step
from tlserve.images import ImageDecoder, ViewMaker
from tlserve.images.views import changed
from tlserve.plugin_api import ImageSpec

Array = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

CROPPED = ImageSpec(96, 96, 110, mean=(0, 0, 0), std=(1, 1, 1))
STRETCHED = ImageSpec(48, 96, None, mean=(0, 0, 0), std=(1, 1, 1), crop="none")
CENTRE = ImageSpec(96, 96, 192, mean=(0, 0, 0), std=(1, 1, 1))
"""Shows the middle half only, so that a view may turn and move without leaving the picture."""
LUMA = np.array([0.299, 0.587, 0.114])


def photo(seed: int = 0, size: tuple[int, int] = (300, 240)) -> Array:
    """Something like a photo: blotches of colour and fine structure, nothing very dark or light."""
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(70, 190, (10, 12, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.int16)
    fine = Image.fromarray(draw.integers(0, 60, (size[1] // 2, size[0] // 2), dtype=np.uint8)).resize(size)
    return np.clip(smooth + np.asarray(fine, np.int16)[:, :, None] - 30, 30, 225).astype(np.uint8)


def dot(across: int, down: int, size: tuple[int, int] = (400, 400)) -> Array:
    """Black, with a white dot."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    disc = (x - across) ** 2 + (y - down) ** 2 <= 36
    return np.repeat((disc * 255).astype(np.uint8)[:, :, None], 3, axis=2)


def encoded(picture: Array | Image.Image, format: str = "PNG", **options: object) -> bytes:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def with_steps(picture: Array | bytes, *steps: Step, spec: ImageSpec = CROPPED) -> Array:
    data = picture if isinstance(picture, bytes) else encoded(picture)
    return changed(data, [steps], ImageDecoder(spec))[0]


def views(data: bytes, how: Augmentation, n: int, spec: ImageSpec = CROPPED) -> list[Array]:
    return ViewMaker(spec, how).views(data, hashlib.sha256(data).hexdigest(), range(1, n + 1))


def whereabouts(picture: Array) -> tuple[float, float]:
    """(across, down) of what is light, in pixels."""
    weights = picture.astype(np.float64).sum(axis=2)
    assert weights.sum() > 0, "the dot is not in the view"
    down, across = np.mgrid[: weights.shape[0], : weights.shape[1]] + 0.5
    return float(np.average(across, weights=weights)), float(np.average(down, weights=weights))


def luminance(picture: Array) -> Floats:
    return np.asarray(picture.astype(np.float64) @ LUMA)


def detail(picture: Array) -> float:
    """The energy of the finest structure: of what neighbours differ by."""
    grey = luminance(picture)
    across, down = np.diff(grey, axis=1)[:-1], np.diff(grey, axis=0)[:, :-1]
    return float((across**2 + down**2).mean())


def difference(a: Array, b: Array) -> float:
    return float(np.abs(a.astype(int) - b.astype(int)).mean())
