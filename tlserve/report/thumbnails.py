"""Small pictures that travel inside the page, so that it needs no other file and no network.

A picture that is gone or broken since the report was written leaves a placeholder with its reason. All of
them together stay under a budget of bytes, so that a page can be sent by mail.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image
from PIL.Image import Resampling

from tlserve.core.errors import BadImage
from tlserve.images.colour import resizable, rgb
from tlserve.images.files import DEFAULT_MAX_PIXELS, DRAFTED, opened, upright

SIDE_PIXELS = 160
QUALITY = 80
BUDGET_BYTES = 700_000
"""Of all data URIs of one page together."""
MAX_FILE_BYTES = 256 * 1024 * 1024

_GONE = "no longer there"


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """One picture of the page, or why there is none."""

    uri: str | None
    """`data:image/jpeg;base64,...`; None for a placeholder."""
    width: int = SIDE_PIXELS
    height: int = SIDE_PIXELS
    reason: str = ""
    """Why there is no picture."""


class Thumbnails:
    """Makes the thumbnails of one page from the files of one model's folder."""

    def __init__(
        self, folder: Path, *, budget_bytes: int = BUDGET_BYTES, max_pixels: int = DEFAULT_MAX_PIXELS
    ) -> None:
        self._folder, self._left, self._max_pixels = folder, budget_bytes, max_pixels
        self._made: dict[str, Thumbnail] = {}

    def of(self, path: str) -> Thumbnail:
        """The thumbnail of a file, `path` relative to the folder; the same path is counted once."""
        if path not in self._made:
            self._made[path] = self._make(path)
        return self._made[path]

    def _make(self, path: str) -> Thumbnail:
        # A report may come from elsewhere: it must not make a page of files outside the model's folder.
        inside = PurePosixPath(path)
        if not path or inside.is_absolute() or ".." in inside.parts:
            return Thumbnail(None, reason="not in the model's folder")
        if self._left <= 0:
            return Thumbnail(None, reason="left out to keep the page small")
        try:
            jpeg, width, height = small_jpeg(_read(self._folder / path), self._max_pixels)
        except BadImage as exc:
            return Thumbnail(None, reason=str(exc))
        except (OSError, ValueError):  # ValueError: a NUL in the path
            return Thumbnail(None, reason=_GONE)
        uri = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
        if len(uri) > self._left:
            self._left = 0
            return Thumbnail(None, reason="left out to keep the page small")
        self._left -= len(uri)
        return Thumbnail(uri, width, height)


def small_jpeg(data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> tuple[bytes, int, int]:
    """An encoded picture as a small upright JPEG, with its width and height in pixels.

    Keeps the proportions; the long side is at most `SIDE_PIXELS`. Raises BadImage with the reason.
    """
    with opened(data, max_pixels) as image:
        turn = upright(image)
        if image.format in DRAFTED:
            image.draft(None, (2 * SIDE_PIXELS, 2 * SIDE_PIXELS))
        whole = resizable(image)
        scale = min(1.0, SIDE_PIXELS / max(whole.size))
        size = (max(1, round(whole.width * scale)), max(1, round(whole.height * scale)))
        if size != whole.size:
            whole = whole.resize(size, Resampling.BICUBIC, reducing_gap=3.0)
        picture = rgb(whole)
        if turn is not None:
            picture = picture.transpose(turn)
        return _encoded(picture), picture.width, picture.height


def _encoded(picture: Image.Image) -> bytes:
    # Fresh pixels, so that no profile, comment or place of the original comes along.
    out = io.BytesIO()
    Image.frombytes("RGB", picture.size, picture.tobytes()).save(out, "JPEG", quality=QUALITY, optimize=True)
    return out.getvalue()


def _read(path: Path) -> bytes:
    if path.stat().st_size > MAX_FILE_BYTES or not path.is_file():
        raise BadImage("not a file that can be shown")
    return path.read_bytes()
