"""What becomes of a view's pixels once it has its size: light, colour, sharpness, grain, holes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter, ImageStat

from tlserve.core.view_steps import Step

Matrix = npt.NDArray[np.float64]
"""(3, 4) float64: what becomes of red, green, blue and white."""

COLOURS = frozenset({"brightness", "contrast", "saturation", "hue", "grayscale"})
_LUMA = np.array([0.299, 0.587, 0.114])
_TO_YIQ = np.array([_LUMA, (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135)])
_NATIVE_SIDE = 224
"""The size of picture that blur is told for."""
_UNSHARP_PIXELS = 2.0


def retouched(image: Image.Image, steps: Sequence[Step]) -> Image.Image:
    """An RGB picture after those of the steps that are about pixels, in their order.

    All changes of colour are one, and clipped once: what one of them makes too light another may mend.
    """
    colours = [step for step in steps if step.name in COLOURS]
    if colours:
        image = image.convert("RGB", tuple(_matrix(colours, _mean_colour(image)).ravel().tolist()))
    for step in steps:
        match step.name:
            case "blur":
                sigma = step.amounts[0] * max(image.size) / _NATIVE_SIDE
                image = image.filter(ImageFilter.GaussianBlur(sigma))
            case "sharpen":
                image = image.filter(
                    ImageFilter.UnsharpMask(_UNSHARP_PIXELS, round(step.amounts[0] * 100), 0)
                )
            case "edges":
                image = image.filter(_edges(step.amounts[0]))
            case "noise":
                image = _grainy(image, *step.amounts)
            case "erase":
                image = _erased(image, *step.amounts)
    return image


def _mean_colour(image: Image.Image) -> npt.NDArray[np.float64]:
    return np.array(ImageStat.Stat(image).mean)


def _matrix(steps: Sequence[Step], mean: npt.NDArray[np.float64]) -> Matrix:
    """All changes of colour in one; mean: (3,), of the picture they are for."""
    linear, offset = np.eye(3), np.zeros(3)
    for step in steps:
        change, shift = _colour_change(step, float(_LUMA @ (linear @ mean + offset)))
        linear, offset = change @ linear, change @ offset + shift
    return np.column_stack([linear, offset])


def _colour_change(step: Step, mean_luma: float) -> tuple[npt.NDArray[np.float64], float]:
    """What multiplies red, green and blue, and what is added to each."""
    grey = np.tile(_LUMA, (3, 1))
    factor = step.amounts[0] if step.amounts else 0.0
    match step.name:
        case "brightness":
            return np.eye(3) * factor, 0.0
        case "contrast":
            return np.eye(3) * factor, (1 - factor) * mean_luma
        case "hue":
            turn = math.radians(factor)
            cos, sin = math.cos(turn), math.sin(turn)
            # In YIQ the first number is the luminance, which stays.
            turned = np.array([(1, 0, 0), (0, cos, -sin), (0, sin, cos)])
            return np.linalg.inv(_TO_YIQ) @ turned @ _TO_YIQ, 0.0
    return np.eye(3) * factor + grey * (1 - factor), 0.0  # saturation; grayscale is none of it


def _edges(share: float) -> ImageFilter.Kernel:
    """What each pixel differs from its neighbours by, added to it."""
    around = -share / 4
    return ImageFilter.Kernel((3, 3), [around] * 4 + [1 - 8 * around] + [around] * 4, scale=1)


def _grainy(image: Image.Image, deviation: float, seed: float) -> Image.Image:
    """Nearly Gaussian: sums of four random bytes, which any numpy draws the same."""
    pixels = np.asarray(image)
    words = np.random.PCG64(int(seed)).random_raw(-(-pixels.size // 2))
    grains = words.astype("<u8").view(np.uint8)[: pixels.size * 4].reshape(-1, 4).sum(axis=1, dtype=np.int32)
    scale = np.float32(deviation * 255 / math.sqrt((256**2 - 1) / 3))
    noise = (grains - 510).astype(np.float32).reshape(pixels.shape) * scale
    return Image.fromarray(np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8))


def _erased(image: Image.Image, area: float, ratio: float, across: float, down: float) -> Image.Image:
    """A rectangle in the mean colour, so that nothing becomes lighter or more colourful on the whole."""
    pixels = np.array(image)
    height, width = pixels.shape[:2]
    tall = min(height, round(math.sqrt(area * height * width / ratio)))
    wide = min(width, round(math.sqrt(area * height * width * ratio)))
    top, left = round((height - tall) * down), round((width - wide) * across)
    pixels[top : top + tall, left : left + wide] = np.rint(_mean_colour(image))
    return Image.fromarray(pixels)
