"""Which part of a picture a view shows, turned or seen aslant, and that part as pixels.

A view is cut out of the whole picture, not of the small one, so it loses no detail; it shrinks and moves
to stay inside, and what lies outside all the same is the mirror image of the rim. So no border is black.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.Image import Resampling, Transform

from tlserve.core.view_steps import Step
from tlserve.images.decode import Box, ImageDecoder

Corners = npt.NDArray[np.float64]
"""(4, 2) float64: across and down in pixels of the whole picture, clockwise from the view's top left."""

FRAMING = frozenset({"crop", "rotate", "translate", "perspective"})
"""The operations that are done here."""

_ASLANT = frozenset({"rotate", "perspective"})
_SHRINKS_TO = 0.6
"""To stay inside the picture a turned view shrinks no further; the rest is mirrored."""
_OVERSAMPLING = 1.5
"""A turned view is sampled this much finer than it will be: sharper, and without steps in lines."""
_RIM = 2
"""Pixels beyond the outermost sample, which interpolation looks at."""


def framed(image: Image.Image, steps: Sequence[Step], decoder: ImageDecoder) -> Image.Image:
    """The part of an upright RGB picture that a view shows, in the size of the decoder's spec.

    steps: those of `FRAMING` count, the others are left out.
    """
    mine = [step for step in steps if step.name in FRAMING]
    corners = corners_shown(mine, image.size, decoder)
    aslant = any(step.name in _ASLANT for step in mine)
    size = (decoder.spec.width, decoder.spec.height)
    left, top, right, bottom = bounds(corners)
    if not aslant and min(left, top) >= 0 and right <= image.width and bottom <= image.height:
        return decoder.resized_part(image, size, (left, top, right, bottom))
    part, corners = _cut_out(image, corners, size)
    if not aslant:
        return decoder.resized_part(part, size, bounds(corners))
    fine = (round(size[0] * _OVERSAMPLING), round(size[1] * _OVERSAMPLING))
    turned = part.transform(fine, Transform.PERSPECTIVE, _coefficients(corners, fine), Resampling.BILINEAR)
    return decoder.resized_part(turned, size, (0, 0, *fine))


def corners_shown(steps: Sequence[Step], size: tuple[int, int], decoder: ImageDecoder) -> Corners:
    """Where the corners of a view lie in a picture of this (width, height)."""
    amounts = {step.name: step.amounts for step in steps}
    left, top, right, bottom = _usual(size, decoder)
    if "crop" in amounts:
        left, top, right, bottom = _crop(amounts["crop"], size, decoder)
    sides = np.array([right - left, bottom - top])
    corners = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    corners = corners + np.array(amounts.get("perspective", (0.0,) * 8)).reshape(4, 2)
    # Turning what is looked at one way turns what is seen the other way.
    turn = math.radians(amounts.get("rotate", (0.0,))[0])
    cos, sin = math.cos(turn), math.sin(turn)
    corners = (corners * sides) @ np.array([(cos, sin), (-sin, cos)])
    corners = corners + np.array([(left + right) / 2, (top + bottom) / 2])
    if _ASLANT & amounts.keys():
        corners = _inside(corners, size)
    return np.asarray(corners - np.array(amounts.get("translate", (0.0, 0.0))) * sides)


def bounds(corners: Corners) -> Box:
    """The upright box around four corners."""
    (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    return (left, top, right, bottom)


def _usual(size: tuple[int, int], decoder: ImageDecoder) -> Box:
    """What the decoder shows of it."""
    width, height = size
    spec = decoder.spec
    if size == (spec.width, spec.height):
        return (0, 0, width, height)
    return decoder.kept(width, height, spec.height, spec.width)


def _crop(amounts: Sequence[float], size: tuple[int, int], decoder: ImageDecoder) -> Box:
    """A share of the largest box of the view's shape, anywhere in the picture."""
    share, across, down = amounts
    width, height = float(size[0]), float(size[1])
    if decoder.spec.resize_short_side is not None:
        scale = min(width / decoder.spec.width, height / decoder.spec.height)
        width, height = decoder.spec.width * scale, decoder.spec.height * scale
    # The product may exceed the side by its last digit.
    width, height = min(width * share, size[0]), min(height * share, size[1])
    left, top = (size[0] - width) * across, (size[1] - height) * down
    return (left, top, min(left + width, size[0]), min(top + height, size[1]))


def _inside(corners: Corners, size: tuple[int, int]) -> Corners:
    """Shrunk and moved until they lie in the picture, as far as that goes."""
    limit = np.array(size, np.float64)
    low, high = corners.min(axis=0), corners.max(axis=0)
    shrink = max(_SHRINKS_TO, min(1.0, float((limit / (high - low)).min())))
    middle, half = (low + high) / 2, (high - low) / 2 * shrink
    # Where it is larger than the picture, in the middle.
    room = np.minimum(half, limit / 2)
    return np.asarray((corners - middle) * shrink + np.clip(middle, room, limit - room))


def _cut_out(image: Image.Image, corners: Corners, size: tuple[int, int]) -> tuple[Image.Image, Corners]:
    """What lies around the corners, no finer than needed and mirrored beyond the rim; the corners in it."""
    left, top, right, bottom = bounds(corners)
    box = (
        max(0, math.floor(left) - _RIM),
        max(0, math.floor(top) - _RIM),
        min(image.width, math.ceil(right) + _RIM),
        min(image.height, math.ceil(bottom) + _RIM),
    )
    across, down = (float(np.linalg.norm(corners[a] - corners[b])) for a, b in ((0, 1), (0, 3)))
    density = min(1.0, _OVERSAMPLING * max(size[0] / across, size[1] / down))
    full = (box[2] - box[0], box[3] - box[1])
    reduced = (max(1, round(full[0] * density)), max(1, round(full[1] * density)))
    part = image.resize(reduced, Resampling.BILINEAR, box=box, reducing_gap=3.0)
    moved = (corners - box[:2]) * (np.array(reduced) / full)
    low = np.ceil(np.maximum(0, _RIM - moved.min(axis=0))).astype(int).tolist()
    high = np.ceil(np.maximum(0, moved.max(axis=0) + _RIM - reduced)).astype(int).tolist()
    # Only where the picture ends: elsewhere the rim was cut with it.
    pads = ((low[1], high[1]), (low[0], high[0]), (0, 0))
    return Image.fromarray(np.pad(np.asarray(part), pads, "symmetric")), moved + low


def _coefficients(corners: Corners, size: tuple[int, int]) -> tuple[float, ...]:
    """The eight numbers of the perspective that lays a picture of `size` on four corners.

    Source: Heckbert 1989, section 2.2.3.
    """
    width, height = size
    equations, wanted = [], []
    for (x, y), (u, v) in zip(((0, 0), (width, 0), (width, height), (0, height)), corners, strict=True):
        equations += [(x, y, 1, 0, 0, 0, -u * x, -u * y), (0, 0, 0, x, y, 1, -v * x, -v * y)]
        wanted += [u, v]
    return tuple(np.linalg.solve(np.array(equations), np.array(wanted)).tolist())
