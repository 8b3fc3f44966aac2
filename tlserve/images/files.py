"""Open an image file safely: known formats only, size checked before any pixel is decoded, one error.

Everything that Pillow may raise becomes BadImage here, with a reason that a person can act on.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

from PIL import Image, UnidentifiedImageError
from PIL.Image import Transpose

from tlserve.core.errors import BadImage

DEFAULT_MAX_PIXELS = 64_000_000
"""Pillow has a limit of its own, 178,956,970 pixels, which stays in force above ours."""

# Now, once, rather than in whichever decoding thread first meets an unknown file.
Image.init()

_WANTED = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000")
FORMATS = tuple(name for name in _WANTED if name in Image.OPEN)
"""No format that starts another program (EPS) or that any bytes could pass for (TGA)."""

DRAFTED = ("JPEG", "MPO")
"""Formats that can be decoded at a fraction of their size."""

_EXIF_ORIENTATION = 0x0112
_UPRIGHT: dict[int, Transpose] = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_SIDEWAYS = frozenset({Transpose.TRANSPOSE, Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90})


@contextlib.contextmanager
def opened(data: bytes | memoryview, max_pixels: int) -> Iterator[Image.Image]:
    """The image in `data`, its header read and nothing decoded yet; first frame of an animated one.

    Raises BadImage when the bytes are no image, when it has more than `max_pixels` pixels, and, in
    place of any error inside the `with` block, when decoding fails there.
    """
    if len(data) == 0:
        raise BadImage("empty file")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise BadImage(
                    f"too large: {width} x {height} pixels, at most {max_pixels:,} are allowed (max_pixels)"
                )
            yield image
    except BadImage:
        raise
    except Exception as exc:  # Pillow's decoders raise nearly every built-in error
        raise BadImage(_reason(exc)) from exc


def upright(image: Image.Image) -> Transpose | None:
    """What turns the picture the way its EXIF orientation asks, or None.

    Decodes any format but JPEG: a PNG may keep its EXIF behind the pixels, and whatever is wrong with
    those must be raised as such.
    """
    if image.format not in DRAFTED:
        image.load()
    try:
        return _UPRIGHT.get(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # a broken EXIF block does not spoil the picture
        return None


def turns_sideways(turn: Transpose | None) -> bool:
    """Whether width and height change places."""
    return turn in _SIDEWAYS


def _reason(exc: Exception) -> str:
    text = str(exc).strip()
    if isinstance(exc, UnidentifiedImageError):
        return f"not an image in a format that is read here ({', '.join(FORMATS)})"
    if isinstance(exc, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"too large: {text}"
    if isinstance(exc, MemoryError):
        return "too large: not enough memory to decode it"
    if "truncated" in text.lower() or "end of file" in text.lower() or isinstance(exc, EOFError):
        return f"truncated file: {text or 'it ends too early'}"
    return f"cannot be decoded: {text or type(exc).__name__}"
