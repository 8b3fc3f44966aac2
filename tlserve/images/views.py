"""Augmented views of a picture as a backbone's input pixels; what each shows is decided in the core.

The picture is decoded once for all its views, by the decoder that serves, so that a view without any
change is what is served, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from PIL.Image import Transpose

from tlserve.core.augmentation import Augmentation
from tlserve.core.view_steps import Step
from tlserve.images.colour import rgb
from tlserve.images.decode import ImageDecoder, Picture
from tlserve.images.files import DEFAULT_MAX_PIXELS
from tlserve.images.framing import FRAMING, framed
from tlserve.images.retouching import retouched
from tlserve.plugin_api import ImageSpec

_FLIPS = {"flip": Transpose.FLIP_LEFT_RIGHT, "vertical_flip": Transpose.FLIP_TOP_BOTTOM}
_NEAR_BLANK = 0.25
"""A part of a picture with less than this share of its contrast shows a piece of sky or of wall."""


@dataclass(frozen=True, slots=True)
class ViewMaker:
    """Makes the views of one augmentation. Without state, so any thread may use it at any time."""

    spec: ImageSpec
    augmentation: Augmentation
    max_pixels: int = DEFAULT_MAX_PIXELS

    def views(self, data: bytes, image_digest: str, indices: Sequence[int]) -> list[Picture]:
        """The views of an encoded file by their numbers (1, 2 ...), each (height, width, 3) uint8 RGB.

        0 is the picture as served. image_digest: sha256 of `data`. Raises BadImage with the reason.
        """
        return changed(
            data,
            [self.augmentation.steps(image_digest, index) for index in indices],
            ImageDecoder(self.spec, self.max_pixels),
        )


def changed(data: bytes, ways: Sequence[Sequence[Step]], decoder: ImageDecoder) -> list[Picture]:
    """An encoded file, changed in each of several ways: (height, width, 3) uint8 RGB of the decoder's spec.

    Raises BadImage with the reason.
    """
    whole: Image.Image | None = None
    with decoder.opened(data) as (image, turn):
        plain = decoder.finished(image, turn)
        if any(step.name in FRAMING for steps in ways for step in steps):
            whole = rgb(image)
            whole = whole.copy() if turn is None else whole.transpose(turn)
    return [_changed(plain, whole, steps, decoder) for steps in ways]


def _changed(
    plain: Picture, whole: Image.Image | None, steps: Sequence[Step], decoder: ImageDecoder
) -> Picture:
    """plain: the picture as served. whole: all of it, upright; needed where a step is in `FRAMING`."""
    if not steps:
        return plain
    view = Image.fromarray(plain)
    if whole is not None and any(step.name in FRAMING for step in steps):
        part = framed(whole, steps, decoder)
        if _contrast(part) >= _NEAR_BLANK * _contrast(view):
            view = part
    for step in steps:
        if step.name in _FLIPS:
            view = view.transpose(_FLIPS[step.name])
    return np.asarray(retouched(view, steps))


def _contrast(image: Image.Image) -> float:
    return float(np.asarray(image.convert("L")).std())
