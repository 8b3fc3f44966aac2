"""What a backbone must declare about itself, checked by the plugin host and by the authors' kit alike."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tlserve.plugin_api import LAST_TAP, BackboneInfo, ImageSpec, Tap


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
        f"tap {tap.name!r} must have a width of 1 or more, got {tap.width!r}"
        for tap in taps
        if not _whole(tap.width)
    ]
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
    if not _whole(info.n_parameters):
        yield f"n_parameters must be 1 or more, got {info.n_parameters!r}"
    image: object = info.image
    if not isinstance(image, ImageSpec):
        yield f"image must be an ImageSpec, got {type(image).__name__}"


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
