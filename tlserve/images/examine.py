"""Does this file decode to its end, and what does it look like? Asked once, when a file is first seen."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from PIL import Image
from PIL.Image import Resampling

from tlserve.images.colour import resizable, rgb
from tlserve.images.files import DRAFTED, opened, turns_sideways, upright

_GRID = 8
_SHARP_STEPS = 16
"""With fewer of its 64 steps visible a picture is near blank, and near-blank ones all look alike."""
_VISIBLE = 3
"""Grey levels between neighbours in the grid; less may be compression noise."""


@dataclass(frozen=True, slots=True)
class Examination:
    """What a whole, decodable image file is."""

    width: int
    height: int
    """Both as displayed, EXIF orientation applied."""
    format: str
    """As Pillow names it: JPEG, PNG ..."""
    fingerprint: int
    """64 bits. Equal for copies of one picture at other sizes or qualities; a few bits apart for slight
    edits. A near-blank picture gets one of its own."""


def examine(data: bytes, max_pixels: int) -> Examination:
    """Decode the whole file, at reduced scale where the format allows it.

    Raises BadImage with the reason when it is not an image, too large, or broken anywhere.
    """
    with opened(data, max_pixels) as image:
        turn = upright(image)
        width, height = image.size[::-1] if turns_sideways(turn) else image.size
        name = image.format or "unknown"
        if name in DRAFTED:
            image.draft(None, (_GRID * _GRID, _GRID * _GRID))
        whole = rgb(resizable(image)).convert("L")
        if turn is not None:
            whole = whole.transpose(turn)
        return Examination(width, height, name, _fingerprint(whole, data))


def _fingerprint(grey: Image.Image, data: bytes) -> int:
    """The difference hash: is each cell of a 9 x 8 grid brighter than its left neighbour?"""
    cells = np.asarray(grey.resize((_GRID + 1, _GRID), Resampling.BOX), dtype=np.int16)
    steps = np.diff(cells, axis=1)
    if np.count_nonzero(np.abs(steps) >= _VISIBLE) < _SHARP_STEPS:
        return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")
    return int.from_bytes(np.packbits(steps > 0).tobytes(), "big")
