"""In which numbers a backbone is computed, and how `auto` decides: a faster build that costs no accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

MOST_ACCURACY_LOST = 0.003
"""Of cross-validated accuracy, that the faster build may lose: 0.3 points."""
LEAST_GAIN = 1.3
"""How many times as fast as fp32 a build must be to be worth its other numbers."""
FEWEST_IMAGES = 100
"""Training images below which there is nothing to decide on."""

_ROUNDING = 1e-9
"""A difference of exactly the bound is within it, however floats write it."""


class Precision(StrEnum):
    AUTO = "auto"
    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


@dataclass(frozen=True, slots=True)
class PrecisionTrial:
    """What was decided for one backbone in one state, and the numbers behind it."""

    chosen: str
    """The precision that passes learn and serve on."""
    tried: str
    """The precision that was measured against fp32; empty where nothing was tried."""
    reason: str
    """In words."""
    n_images: int = 0
    """Training images that it was measured on."""
    accuracy: float | None = None
    """Of a head on fp32 features, cross-validated; from 0 to 1."""
    accuracy_tried: float | None = None
    """The same head and folds, on the features of what was tried."""
    images_per_second: float | None = None
    """Of the fp32 graph, with pixels in memory."""
    images_per_second_tried: float | None = None
    hardware: str = ""
    decided_at: float = 0.0
    """Unix time."""


def is_fast_enough(times_as_fast: float) -> bool:
    """Whether a build so many times as fast as fp32 is worth a look at what it costs."""
    return times_as_fast >= LEAST_GAIN


def decided(
    tried: Precision,
    *,
    images_per_second: float,
    times_as_fast: float,
    accuracies: tuple[float, float] | None,
    n_images: int,
    hardware: str,
    decided_at: float,
) -> PrecisionTrial:
    """Whether the build at `tried` takes the place of the fp32 one.

    times_as_fast: of the tried build, measured in turns with fp32; images_per_second: of fp32.
    accuracies: of fp32 and of the tried build, cross-validated on the same images and folds; None where
    they were not measured because it is not fast enough.
    """
    accuracy, accuracy_tried = accuracies or (None, None)
    taken, words = False, f"{times_as_fast:.1f} times as fast"
    if accuracy is not None and accuracy_tried is not None:
        words = f"{accuracy_tried * 100:.1f} % against {accuracy * 100:.1f} %, {words}"
        taken = accuracy - accuracy_tried <= MOST_ACCURACY_LOST + _ROUNDING
    if not is_fast_enough(times_as_fast):
        taken, words = False, f"{words}; not taken: {LEAST_GAIN:.1f} times is asked for"
    else:
        no = f"not taken: it may lose {MOST_ACCURACY_LOST * 100:.1f} points at most"
        words = f"{words}; {'taken' if taken else no}"
    return PrecisionTrial(
        chosen=(tried if taken else Precision.FP32).value,
        tried=tried.value,
        reason=f"{tried.value}: {words}",
        n_images=n_images,
        accuracy=accuracy,
        accuracy_tried=accuracy_tried,
        images_per_second=images_per_second,
        images_per_second_tried=images_per_second * times_as_fast,
        hardware=hardware,
        decided_at=decided_at,
    )


def undecidable(reason: str, *, hardware: str, decided_at: float) -> PrecisionTrial:
    """fp32, as nothing else could be tried, or nothing may be changed."""
    return PrecisionTrial(
        chosen=Precision.FP32.value, tried="", reason=reason, hardware=hardware, decided_at=decided_at
    )
