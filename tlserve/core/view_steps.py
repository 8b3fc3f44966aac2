"""What can be done to a picture, how strongly, and the drawing of one view's changes from a text.

The same text always draws the same changes: only raw random bits are used, and scaled here, so that no
newer numpy draws others.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What one operation does, and within which limits."""

    says: str
    """For a person: what it does, and what its strength means."""
    strength: float = 0.0
    """Where none is written; 0 for an operation that has no degrees."""
    least: float = 0.0
    """A strength of 0 is never one."""
    most: float = 0.0
    probability: float = 1.0
    """The share of views that get it, where none is written."""


KINDS: dict[str, Kind] = {
    "flip": Kind(says="left and right change places, in every other view", probability=0.5),
    "vertical_flip": Kind(says="top and bottom change places, in half of the views", probability=0.5),
    "crop": Kind(
        says="a part anywhere in the picture; least share of the side that is kept",
        strength=0.75,
        least=0.2,
        most=1,
    ),
    "rotate": Kind(says="turned either way; most degrees", strength=15, most=180),
    "translate": Kind(says="moved any way; most as a share of the side", strength=0.1, most=0.5),
    "perspective": Kind(
        says="seen aslant; most that a corner moves as a share of the side", strength=0.1, most=0.2
    ),
    "brightness": Kind(says="lighter or darker; most as a share", strength=0.2, most=0.7),
    "contrast": Kind(says="more or less contrast; most as a share", strength=0.2, most=0.7),
    "saturation": Kind(says="more or less colourful; most as a share", strength=0.3, most=1),
    "hue": Kind(says="colours turned on their circle; most degrees", strength=10, most=180),
    "grayscale": Kind(says="without colour", probability=0.2),
    "blur": Kind(
        says="out of focus; most in pixels of a picture 224 wide", strength=1.5, most=10, probability=0.5
    ),
    "sharpen": Kind(says="sharpened; most as a share", strength=1, most=5, probability=0.5),
    "edges": Kind(says="edges enhanced; most as a share", strength=0.5, most=2, probability=0.5),
    "noise": Kind(
        says="grain; its standard deviation as a share of white", strength=0.05, most=0.3, probability=0.5
    ),
    "erase": Kind(
        says="a rectangle in the mean colour; most as a share of the area",
        strength=0.15,
        most=0.5,
        probability=0.5,
    ),
}
"""Every operation, in the order in which they are applied."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One kind of change that views may get."""

    name: str
    """One of `KINDS`."""
    strength: float
    """In the unit of its kind; 0 for a kind without degrees."""
    probability: float
    """The share of views that get it, above 0, at most 1."""


@dataclass(frozen=True, slots=True)
class Step:
    """One change that one view gets, all numbers drawn."""

    name: str
    amounts: tuple[float, ...] = ()
    """crop: share of the side, then where (0 to 1) across and down. rotate: degrees, counter-clockwise.
    translate: across, down. perspective: across and down for each corner, clockwise from the top left.
    brightness, contrast, saturation: the factor. hue: degrees. blur: pixels at 224. sharpen, edges: share.
    noise: standard deviation, seed. erase: share of the area, width over height, where across and down."""


def drawn(operations: Sequence[Operation], text: str, index: int) -> tuple[Step, ...]:
    """What view `index` gets, in the order to apply it; text: names image and policy. View 0 gets nothing.

    Where there is a flip, view 1 is the mirror image and nothing else, the best single view there is, and
    of the later ones every other is flipped. A view that chance would leave as it is gets everything.
    """
    if index == 0:
        return ()
    if index == 1 and any(op.name == "flip" for op in operations):
        return (Step("flip"),)
    draws = _Draws(f"{text}+{index}")
    # Flips take turns: that mixes them better than chance.
    turns = {"flip": index % 2 == 1, "vertical_flip": index // 2 % 2 == 1}
    found = [(draws.chance(), Step(op.name, _amounts(op, draws)), op) for op in operations]
    chosen = (step for chance, step, op in found if turns.get(op.name, chance < op.probability))
    return tuple(chosen) or tuple(step for _, step, _ in found)


class _Draws:
    """Numbers from a text."""

    def __init__(self, text: str) -> None:
        self._bits = np.random.PCG64(int.from_bytes(hashlib.sha256(text.encode()).digest(), "big"))

    def chance(self) -> float:
        """From 0 to 1, without 1."""
        return (int(self._bits.random_raw()) >> 11) * 2.0**-53

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.chance()

    def either_way(self, most: float, n: int = 1) -> tuple[float, ...]:
        return tuple(self.between(-most, most) for _ in range(n))


def _amounts(op: Operation, draws: _Draws) -> tuple[float, ...]:
    most = op.strength
    found: tuple[float, ...] = ()
    match op.name:
        case "crop":
            found = (draws.between(most, 1), draws.chance(), draws.chance())
        case "translate":
            found = draws.either_way(most, 2)
        case "perspective":
            found = draws.either_way(most, 8)
        case "rotate" | "hue":
            found = draws.either_way(most)
        case "brightness" | "contrast" | "saturation":
            found = (1 + draws.either_way(most)[0],)
        case "blur" | "sharpen" | "edges":
            found = (draws.between(most / 2, most),)
        case "noise":
            found = (draws.between(most / 2, most), float(int(draws.between(0, 2**32))))
        case "erase":
            ratio = math.exp(draws.either_way(math.log(2))[0])
            found = (draws.between(most / 2, most), ratio, draws.chance(), draws.chance())
    return found
