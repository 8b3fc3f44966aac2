"""From a picture to a backbone's input pixels: one way, for learning and for serving.

Deterministic and without state, so any thread may use a decoder at any time; Pillow releases the GIL
while it decodes and resizes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.Image import Resampling, Transpose

from tlserve.core.errors import BadInput
from tlserve.core.types import Pixels
from tlserve.images.colour import resizable, rgb
from tlserve.images.files import DEFAULT_MAX_PIXELS, DRAFTED, opened, turns_sideways, upright
from tlserve.plugin_api import ImageSpec

Picture = npt.NDArray[np.uint8]
"""(height, width, 3) uint8 RGB."""
Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels, exact to a fraction."""

DRAFT_MARGIN = 2
"""A big JPEG is decoded at a half, quarter or eighth only while it stays this many times larger than
needed: the resize after it then hides the difference (0.3 of 255 on average)."""
REDUCING_GAP = 3.0
"""Pillow shrinks by whole factors first, down to this many times the size; indistinguishable from 3.0 on."""

_FILTERS = {
    "nearest": Resampling.NEAREST,
    "bilinear": Resampling.BILINEAR,
    "bicubic": Resampling.BICUBIC,
    "lanczos": Resampling.LANCZOS,
}


@dataclass(frozen=True, slots=True)
class ImageDecoder:
    """Makes (height, width, 3) uint8 RGB of any picture, as the spec asks; always RGB, never normalised.

    A picture that already has exactly the spec's size is taken as it is, whether it comes as a file or
    as pixels; any other is resized and cropped, so that `fit` gives for the pixels of a file what
    `decode` gives for the file.
    """

    spec: ImageSpec
    max_pixels: int = DEFAULT_MAX_PIXELS

    def decode(self, data: bytes | memoryview) -> Picture:
        """The picture in an encoded file, upright by its EXIF orientation, read-only.

        Raises BadImage with the reason.
        """
        with self.opened(data) as (image, turn):
            return self.finished(image, turn)

    @contextlib.contextmanager
    def opened(self, data: bytes | memoryview) -> Iterator[tuple[Image.Image, Transpose | None]]:
        """The picture in an encoded file, decoded as large as it is needed, and what turns it upright.

        Raises BadImage with the reason, also in place of any error inside the `with` block.
        """
        with opened(data, self.max_pixels) as image:
            turn = upright(image)
            if image.format in DRAFTED:
                side = DRAFT_MARGIN * self._needed_side()
                image.draft(None, (side, side))
            yield resizable(image), turn

    def finished(self, image: Image.Image, turn: Transpose | None) -> Picture:
        """What `opened` gave as the spec asks, upright."""
        height, width = self.spec.height, self.spec.width
        if turns_sideways(turn):
            height, width = width, height
        small = rgb(self._resized(image, height, width))
        return np.asarray(small if turn is None else small.transpose(turn))

    def fit(self, pixels: Pixels) -> Pixels:
        """Pictures of one size, (n, h, w, 3) uint8 RGB, to the spec's size, as files would be.

        Returns the same array where nothing needs doing. Raises BadInput for another type or shape,
        or for pictures of more than `max_pixels`.
        """
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or 0 in pixels.shape[1:3]:
            wanted = "uint8 of shape (n, height, width, 3)"
            raise BadInput(f"pixels must be {wanted}, not {pixels.dtype} of shape {pixels.shape}")
        _, height, width, _ = pixels.shape
        if height * width > self.max_pixels:
            raise BadInput(
                f"pictures of {width} x {height} pixels; at most {self.max_pixels:,} are allowed (max_pixels)"
            )
        if (height, width) == (self.spec.height, self.spec.width):
            return pixels
        fitted = np.empty((len(pixels), self.spec.height, self.spec.width, 3), np.uint8)
        for picture, out in zip(pixels, fitted, strict=True):
            image = Image.fromarray(np.ascontiguousarray(picture))
            out[:] = np.asarray(self._resized(image, self.spec.height, self.spec.width))
        return fitted

    def _resized(self, image: Image.Image, height: int, width: int) -> Image.Image:
        if image.size == (width, height):
            return image
        return self.resized_part(image, (width, height), self.kept(image.width, image.height, height, width))

    def resized_part(self, image: Image.Image, size: tuple[int, int], box: Box) -> Image.Image:
        """A part of a picture at (width, height) pixels, with the spec's interpolation."""
        return image.resize(size, _FILTERS[self.spec.interpolation], box=box, reducing_gap=REDUCING_GAP)

    def kept(self, image_width: int, image_height: int, height: int, width: int) -> Box:
        """The part of the image that the crop keeps: resize and crop are one step, exact to a fraction."""
        short = self.spec.resize_short_side
        if short is None:
            return (0, 0, image_width, image_height)
        scale = min(image_width, image_height) / short
        # A crop larger than the picture's long side cannot happen: short >= max(height, width).
        keep_x, keep_y = width * scale, height * scale
        # Where nothing is cropped, the product may exceed the side by its last digit.
        left, top = max(0.0, (image_width - keep_x) / 2), max(0.0, (image_height - keep_y) / 2)
        return (left, top, min(left + keep_x, image_width), min(top + keep_y, image_height))

    def _needed_side(self) -> int:
        """The short side, in pixels, that a picture needs for nothing to be enlarged."""
        return self.spec.resize_short_side or max(self.spec.height, self.spec.width)
