"""All views of a picture side by side, for a person who wants to see what a policy does before using it."""

from __future__ import annotations

import hashlib
import math
import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from tlserve.core.augmentation import Augmentation
from tlserve.core.view_steps import Step
from tlserve.images.decode import ImageDecoder, Picture
from tlserve.images.files import DEFAULT_MAX_PIXELS
from tlserve.images.views import changed
from tlserve.plugin_api import ImageSpec

_MARGIN = 8
_TEXT_SIZE = 11
_LINE = 14
_LETTER_WIDTH = 6
_HEADING_SIZE, _HEADING_LINE, _HEADING_LETTER_WIDTH = 15, 20, 8
_NO_BREAK = "\N{NO-BREAK SPACE}"
_SHOWN = {"crop": 1, "perspective": 0, "noise": 1, "erase": 1}
"""How many of its numbers tell enough about a step; of the others, all."""


def contact_sheet(
    data: bytes,
    spec: ImageSpec,
    augmentation: Augmentation,
    n_views: int,
    *,
    columns: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Image.Image:
    """The picture in an encoded file as a backbone sees it, and its first views, each with what was done.

    columns: pictures side by side; without, the sheet is about as high as wide. Returns an RGB picture.
    Raises BadImage with the reason.
    """
    digest = hashlib.sha256(data).hexdigest()
    indices = augmentation.indices(n_views)
    ways: list[tuple[Step, ...]] = [(), *(augmentation.steps(digest, index) for index in indices)]
    pictures = changed(data, ways, ImageDecoder(spec, max_pixels))
    numbered = zip(indices, ways[1:], strict=True)
    titles = ["as it is", *(f"{index}: {_told(steps)}" for index, steps in numbered)]
    lines = [textwrap.wrap(title, max(8, spec.width // _LETTER_WIDTH)) for title in titles]
    return _laid_out(pictures, lines, columns or math.ceil(math.sqrt(len(pictures))))


def stacked(parts: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Sheets below one another, each under its heading; at least one."""
    width = max(sheet.width for _, sheet in parts)
    letters = max(8, (width - 2 * _MARGIN) // _HEADING_LETTER_WIDTH)
    headings = [textwrap.wrap(heading, letters) for heading, _ in parts]
    heights = [_MARGIN + len(lines) * _HEADING_LINE for lines in headings]
    total = sum(heights) + sum(sheet.height for _, sheet in parts)
    page = Image.new("RGB", (width, total), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(_HEADING_SIZE)
    top = 0
    for lines, height, (_, sheet) in zip(headings, heights, parts, strict=True):
        for number, line in enumerate(lines):
            pen.text((_MARGIN, top + _MARGIN + number * _HEADING_LINE), line, fill="black", font=font)
        page.paste(sheet, (0, top + height))
        top += height + sheet.height
    return page


def _told(steps: Sequence[Step]) -> str:
    return ", ".join(
        _NO_BREAK.join([step.name, *(f"{amount:.3g}" for amount in step.amounts[: _SHOWN.get(step.name)])])
        for step in steps
    )


def _laid_out(pictures: Sequence[Picture], titles: Sequence[Sequence[str]], columns: int) -> Image.Image:
    """In a grid; titles: the lines under each picture."""
    height, width = pictures[0].shape[:2]
    down = height + max(map(len, titles)) * _LINE + 2 * _MARGIN
    across = width + _MARGIN
    rows = math.ceil(len(pictures) / columns)
    sheet = Image.new("RGB", (columns * across + _MARGIN, rows * down + _MARGIN), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_TEXT_SIZE)
    for place, (picture, lines) in enumerate(zip(pictures, titles, strict=True)):
        left, top = _MARGIN + place % columns * across, _MARGIN + place // columns * down
        sheet.paste(Image.fromarray(picture), (left, top))
        # The font has no blank that does not break, and its usual one is hardly seen at this size.
        text = "\n".join(lines).replace(_NO_BREAK, " ").replace(" ", "  ")
        pen.multiline_text((left, top + height + 2), text, fill="black", font=font, spacing=2)
    return sheet
