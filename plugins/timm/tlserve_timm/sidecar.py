"""The .json beside a file of weights: what a person knows about it and timm does not."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tlserve.plugin_api import ImageSpec, WeightsUnavailable

_FIELDS = ("image", "licence", "weights_origin")


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What the file says; empty where it says nothing, or is not there."""

    path: Path
    licence: str = ""
    weights_origin: str = ""
    image: Mapping[str, Any] = field(default_factory=dict)
    """Fields of ImageSpec that differ from what timm says."""

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the input in pixels, if given; one alone stands for both."""
        sides = [self.image[side] for side in ("height", "width") if side in self.image]
        if not all(isinstance(side, int) and side > 0 for side in sides):
            raise WeightsUnavailable(f"{self.path}: image: height and width are whole numbers of pixels")
        return (sides[0], sides[-1]) if sides else None

    def applied_to(self, image: ImageSpec) -> ImageSpec:
        """Raises WeightsUnavailable naming the field that is wrong."""
        fields = dict(self.image)
        known = {each.name for each in dataclasses.fields(ImageSpec)}
        if unknown := sorted(set(fields) - known):
            raise WeightsUnavailable(
                f"{self.path}: image has no field {', '.join(unknown)}; it has {', '.join(sorted(known))}"
            )
        try:
            for name in ("mean", "std"):
                if name in fields:
                    red, green, blue = (float(value) for value in fields[name])
                    fields[name] = (red, green, blue)
            return dataclasses.replace(image, **fields)
        except (TypeError, ValueError) as exc:
            raise WeightsUnavailable(f"{self.path}: image: {exc}") from exc


def read_sidecar(path: Path) -> Sidecar:
    """An empty one if there is no such file. Raises WeightsUnavailable if it cannot be understood."""
    if not path.is_file():
        return Sidecar(path)
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise WeightsUnavailable(f"cannot read {path}: {exc}") from exc
    if not isinstance(facts, dict) or not isinstance(facts.get("image", {}), dict):
        raise WeightsUnavailable(f"{path}: a JSON object is expected, and its 'image' must be one too")
    if unknown := sorted(set(facts) - set(_FIELDS)):
        raise WeightsUnavailable(
            f"{path}: there is no field {', '.join(unknown)}; there are {', '.join(_FIELDS)}"
        )
    return Sidecar(
        path, str(facts.get("licence", "")), str(facts.get("weights_origin", "")), facts.get("image", {})
    )
