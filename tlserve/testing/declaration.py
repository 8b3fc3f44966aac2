"""Checks of what a backbone says about itself. Each gives what is wrong, or None."""

from __future__ import annotations

import io
import pickle

import numpy as np
from PIL import Image

from tlserve.core.promises import info_faults, tap_faults
from tlserve.images import ImageDecoder
from tlserve.plugin_api import Backbone
from tlserve.testing.trial import Trial


def is_a_backbone(trial: Trial) -> str | None:
    given: object = trial.backbone
    return None if isinstance(given, Backbone) else f"{type(given).__name__} lacks one of them"


def info_is_sound(trial: Trial) -> str | None:
    info = trial.backbone.info
    taps = tap_faults(getattr(info, "taps", ()))
    return _joined(tuple(fault for fault in info_faults(info) if fault not in taps))


def taps_are_sound(trial: Trial) -> str | None:
    return _joined(tap_faults(trial.backbone.info.taps))


def image_is_usable(trial: Trial) -> str | None:
    """Prepare a small drawn picture with the decoder that learning and serving use."""
    spec = trial.backbone.info.image
    numbers = (*spec.mean, *spec.std)
    if len(numbers) != 6 or not all(isinstance(number, int | float) for number in numbers):
        return f"mean and std must be three numbers each, got {spec.mean} and {spec.std}"
    # The commonest slip: the numbers of a library that scales pixels to 0..1 first.
    if min(spec.std) <= 0 or (0 < max(spec.mean) <= 1 and max(spec.std) <= 1):
        return f"mean and std are in pixel units (0 to 255), got {spec.mean} and {spec.std}"
    file = io.BytesIO()
    Image.fromarray(np.arange(40 * 60 * 3, dtype=np.uint32).astype(np.uint8).reshape(40, 60, 3)).save(
        file, "PNG"
    )
    shape = ImageDecoder(spec).decode(file.getvalue()).shape
    if shape != (spec.height, spec.width, 3):
        return f"a picture came out as {shape}"
    return None


def info_is_stable(trial: Trial) -> str | None:
    first, second = trial.backbone.info, trial.backbone.info
    return None if first == second else f"first {first}, then {second}"


def info_is_picklable(trial: Trial) -> str | None:
    info = trial.backbone.info
    copy = pickle.loads(pickle.dumps(info))
    return None if copy == info else f"{info} became {copy}"


def _joined(faults: tuple[str, ...]) -> str | None:
    return "; ".join(faults) or None
