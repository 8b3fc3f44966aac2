"""What a backbone must declare about itself, checked by the plugin host and by the authors' kit alike."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from tlserve.plugin_api import LAST_TAP, BackboneInfo, ImageSpec, Tap

MOST_PARAMETERS = 2**63 - 1
LARGEST_SIZE = 2**31 - 1
"""Of a side in pixels or of a row; like `MOST_PARAMETERS`, what the messages of the protocol can say."""


def info_faults(info: object) -> tuple[str, ...]:
    """Each broken promise of a declaration, in words; empty when it is sound."""
    if not isinstance(info, BackboneInfo):
        return (f"info must be a BackboneInfo, got {type(info).__name__}",)
    return (*_text_faults(info), *_number_faults(info), *tap_faults(info.taps))


def tap_faults(taps: object) -> tuple[str, ...]:
    """Broken promises of the list of taps alone."""
    if not isinstance(taps, tuple) or not taps or not all(isinstance(tap, Tap) for tap in taps):
        return (f"taps must be a tuple of Tap, at least one, got {taps!r}",)
    names = [tap.name for tap in taps]
    faults = []
    if names[-1] != LAST_TAP:
        faults.append(f"the last tap must be named {LAST_TAP!r}, got {names[-1]!r}")
    if len(set(names)) != len(names):
        faults.append(f"tap names must differ, got {', '.join(names)}")
    faults += [
        f"tap {tap.name!r} must have a width from 1 to {LARGEST_SIZE:,}, got {tap.width!r}"
        for tap in taps
        if not is_count(tap.width, LARGEST_SIZE)
    ]
    if not faults and sum(tap.width for tap in taps) > LARGEST_SIZE:
        faults.append(f"the widths of all taps must come to {LARGEST_SIZE:,} at the most")
    return tuple(faults)


def _text_faults(info: BackboneInfo) -> Iterator[str]:
    for field in ("name", "licence", "weights_origin", "build_version"):
        value: object = getattr(info, field)
        if not isinstance(value, str) or not value:
            yield f"{field} must be a text that is not empty, got {value!r}"
    digest: object = info.weights_sha256
    if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
        yield f"weights_sha256 must be 64 lower-case hex digits, got {digest!r}"


def _number_faults(info: BackboneInfo) -> Iterator[str]:
    if not is_count(info.n_parameters, MOST_PARAMETERS):
        yield f"n_parameters must be a whole number from 1 to {MOST_PARAMETERS:,}, got {info.n_parameters!r}"
    image: object = info.image
    if isinstance(image, ImageSpec):
        yield from _image_faults(image)
    else:
        yield f"image must be an ImageSpec, got {type(image).__name__}"


def _image_faults(image: ImageSpec) -> Iterator[str]:
    for field in ("height", "width", "resize_short_side"):
        size: object = getattr(image, field)
        if not is_count(size, LARGEST_SIZE) and (field, size) != ("resize_short_side", None):
            yield f"image.{field} must be a whole number of pixels, got {size!r}"
    for field in ("mean", "std"):
        levels: object = getattr(image, field)
        if not isinstance(levels, tuple) or [_is_level(level) for level in levels] != [True] * 3:
            yield f"image.{field} must be a tuple of three finite numbers of Python's own, got {levels!r}"


def _is_level(value: object) -> bool:
    """numpy's float32 is none: it would not survive the JSON that a build is described in."""
    return isinstance(value, int | float) and math.isfinite(value)


def is_count(value: object, most: int) -> bool:
    """Whether it is a whole number of Python's from 1 to `most`."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
