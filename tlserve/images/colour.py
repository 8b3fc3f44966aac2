"""Any pixel mode to 8-bit RGB, the same way for every picture.

Transparent parts are laid on white. Sixteen-bit greys are scaled from their whole range, where Pillow
itself would clip them to white.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

_WHITE = (255, 255, 255, 255)
_WIDE_MODES = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
_ALPHA_MODES = frozenset({"RGBA", "RGBa", "LA", "La", "PA"})


def resizable(image: Image.Image) -> Image.Image:
    """`image` as L, RGB or RGBA: modes that resize well (alpha is premultiplied by Pillow then)."""
    if image.mode in _WIDE_MODES:
        return Image.fromarray(_to_8_bit(np.asarray(image), image.mode))
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        return image.convert("RGBA")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def rgb(image: Image.Image) -> Image.Image:
    """What `resizable` gave, as RGB on a white ground."""
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_8_bit(values: npt.NDArray[np.generic], mode: str) -> npt.NDArray[np.uint8]:
    """Greys of more than 8 bits to 0..255.

    I;16 always spans 0..65535. I does too when its values fit, F spans 0..1 or 0..255 when they fit;
    anything else is stretched from its least to its greatest value.
    """
    if mode.startswith("I;16"):
        return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    wide = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = float(wide.min()), float(wide.max())
    spans = (65535.0,) if mode == "I" else (1.0, 255.0)
    span = next((span for span in spans if high <= span), None)
    if low < 0 or span is None:
        wide, span = wide - low, max(high - low, 1e-12)
    return np.rint(wide * (255.0 / span)).astype(np.uint8)
