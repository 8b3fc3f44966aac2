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
_SHOWN = {"crop": 1, "perspective": 0, "noise": 1, "erase": 1}
"""How many of its numbers tell enough about a step; of the others, all."""


def contact_sheet(
    data: bytes,
    spec: ImageSpec,
    augmentation: Augmentation,
    n_views: int,
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Image.Image:
    """The picture in an encoded file as a backbone sees it, and its first views, each with what was done.

    Returns an RGB picture. Raises BadImage with the reason.
    """
    digest = hashlib.sha256(data).hexdigest()
    indices = augmentation.indices(n_views)
    ways: list[tuple[Step, ...]] = [(), *(augmentation.steps(digest, index) for index in indices)]
    pictures = changed(data, ways, ImageDecoder(spec, max_pixels))
    numbered = zip(indices, ways[1:], strict=True)
    titles = ["as it is", *(f"{index}: {_told(steps)}" for index, steps in numbered)]
    return _laid_out(pictures, [textwrap.wrap(title, spec.width // _LETTER_WIDTH) for title in titles])


def _told(steps: Sequence[Step]) -> str:
    return ", ".join(
        " ".join([step.name, *(f"{amount:.3g}" for amount in step.amounts[: _SHOWN.get(step.name)])])
        for step in steps
    )


def _laid_out(pictures: Sequence[Picture], titles: Sequence[Sequence[str]]) -> Image.Image:
    """In a grid, about as high as wide; titles: the lines under each picture."""
    columns = math.ceil(math.sqrt(len(pictures)))
    height, width = pictures[0].shape[:2]
    down = height + max(map(len, titles)) * _LINE + 2 * _MARGIN
    across = width + _MARGIN
    rows = math.ceil(len(pictures) / columns)
    sheet = Image.new("RGB", (columns * across + _MARGIN, rows * down + _MARGIN), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_TEXT_SIZE)
    for place, (picture, lines) in enumerate(zip(pictures, titles, strict=True)):
        left, top = _MARGIN + place % columns * across, _MARGIN + place // columns * down
        sheet.paste(Image.fromarray(picture), (left, top))
        pen.multiline_text((left, top + height + 2), "\n".join(lines), fill="black", font=font, spacing=2)
    return sheet
