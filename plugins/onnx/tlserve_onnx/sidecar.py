"""The .json beside an .onnx file: what the graph itself cannot say about pictures, taps and licence."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from tlserve.plugin_api import (
    LAST_TAP,
    BackboneError,
    ChannelOrder,
    Crop,
    ImageSpec,
    Interpolation,
    Layout,
    WeightsUnavailable,
)

Tokens = Literal["mean", "first"]

FILL_IN = "FILL IN"
"""What a proposed text begins with that only a person can give; such a description is refused."""
_FIELDS = {"name", "licence", "weights_origin", "input", "image", "taps"}
_WORDS = {
    "crop": get_args(Crop),
    "interpolation": get_args(Interpolation),
    "layout": get_args(Layout),
    "channel_order": get_args(ChannelOrder),
}


@dataclass(frozen=True, slots=True)
class TapSource:
    """Where a tap's activations come from, and how they become one row."""

    tensor: str
    layout: Layout | None = None
    """Of a feature map; None: as the input's."""
    tokens: Tokens = "mean"
    """What stands for tokens [N, T, width]: their mean, or the first one (the class token)."""

    def written(self) -> str | dict[str, str]:
        """As in the file: the name alone where that says enough."""
        facts = {"tensor": self.tensor}
        if self.layout is not None:
            facts["layout"] = self.layout
        if self.tokens != "mean":
            facts["tokens"] = self.tokens
        return self.tensor if len(facts) == 1 else facts


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What a person declares about one ONNX file."""

    licence: str
    weights_origin: str
    input: str
    """Name of the graph's image input."""
    image: ImageSpec
    taps: tuple[tuple[str, TapSource], ...]
    """(tap name, its source), shallow to deep; the last tap is `features`."""

    def to_fill_in(self) -> tuple[str, ...]:
        """Fields that still hold what was proposed for a person to replace."""
        texts = {"licence": self.licence, "weights_origin": self.weights_origin}
        return tuple(field for field, text in texts.items() if text.lstrip().startswith(FILL_IN))

    def choice_digest(self) -> str:
        """Stands for the choice of input and tensors, which changes features as much as weights do."""
        taps = [(name, source.written()) for name, source in self.taps]
        return hashlib.sha256(json.dumps([self.input, taps]).encode()).hexdigest()[:12]


def sidecar_path(onnx_file: Path) -> Path:
    return onnx_file.with_suffix(".json")


def read_sidecar(path: Path) -> Sidecar:
    """Raises WeightsUnavailable if `path` cannot be read, BackboneError naming the field that is wrong."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise WeightsUnavailable(f"cannot read {path} as JSON: {exc}") from exc
    try:
        return parse_sidecar(facts)
    except BackboneError as exc:
        raise BackboneError(f"{path}: {exc}") from exc


def parse_sidecar(facts: Any) -> Sidecar:
    """From the JSON's objects. Raises BackboneError naming the field that is wrong."""
    try:
        return _sidecar(facts)
    except (TypeError, ValueError) as exc:
        raise BackboneError(str(exc)) from exc


def _sidecar(facts: Any) -> Sidecar:
    if not isinstance(facts, dict):
        raise TypeError("a JSON object is expected")
    _known(facts, _FIELDS, "the file")
    return Sidecar(
        licence=_text(facts, "licence"),
        weights_origin=_text(facts, "weights_origin"),
        input=_text(facts, "input"),
        image=_image(facts.get("image")),
        taps=_taps(facts.get("taps")),
    )


def _text(facts: dict[str, Any], field: str) -> str:
    value = facts.get(field)
    if not isinstance(value, str) or not value:
        raise ValueError(f"field {field!r} must be a text, got {value!r}")
    return value


def _image(facts: Any) -> ImageSpec:
    if not isinstance(facts, dict):
        raise TypeError(f"field 'image' must be an object, got {facts!r}")
    _known(facts, {field.name for field in dataclasses.fields(ImageSpec)}, "'image'")
    for field, words in _WORDS.items():
        if field in facts and facts[field] not in words:
            raise ValueError(f"image field {field!r} must be one of {', '.join(words)}, got {facts[field]!r}")
    short_side = facts.get("resize_short_side")
    return ImageSpec(
        height=_whole(facts, "height"),
        width=_whole(facts, "width"),
        resize_short_side=None if short_side is None else _whole(facts, "resize_short_side"),
        mean=_three(facts, "mean"),
        std=_three(facts, "std"),
        **{field: facts[field] for field in _WORDS if field in facts},
    )


def _whole(facts: dict[str, Any], field: str) -> int:
    value = facts.get(field)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"image field {field!r} must be a positive whole number, got {value!r}")
    return value


def _three(facts: dict[str, Any], field: str) -> tuple[float, float, float]:
    value = facts.get(field)
    if (
        not isinstance(value, list)
        or len(value) != 3
        or not all(isinstance(number, int | float) and not isinstance(number, bool) for number in value)
    ):
        raise ValueError(
            f"image field {field!r} must be three numbers in pixel units (0 to 255), got {value!r}"
        )
    return float(value[0]), float(value[1]), float(value[2])


def _taps(facts: Any) -> tuple[tuple[str, TapSource], ...]:
    if not isinstance(facts, dict):
        raise ValueError(f"field 'taps' must be an object of tap name to tensor name, got {facts!r}")
    if not facts or list(facts)[-1] != LAST_TAP:
        raise ValueError(f"the last of 'taps' must be named {LAST_TAP!r}, got {', '.join(facts) or 'none'}")
    return tuple((tap, _tap_source(tap, source)) for tap, source in facts.items())


def _tap_source(tap: str, source: Any) -> TapSource:
    facts = source if isinstance(source, dict) else {"tensor": source}
    _known(facts, {"tensor", "layout", "tokens"}, f"tap {tap!r}")
    tensor, layout, tokens = facts.get("tensor"), facts.get("layout"), facts.get("tokens", "mean")
    if not isinstance(tensor, str) or not tensor:
        raise ValueError(
            f"tap {tap!r} must be a tensor name, or an object with 'tensor' and, where it needs them, "
            f"'layout' or 'tokens'; got {source!r}"
        )
    for field, value, words in (("layout", layout, get_args(Layout)), ("tokens", tokens, get_args(Tokens))):
        if field in facts and value not in words:
            raise ValueError(f"tap {tap!r}: {field!r} must be one of {', '.join(words)}, got {value!r}")
    return TapSource(tensor, layout, tokens)


def _known(facts: dict[str, Any], known: set[str], where: str) -> None:
    if unknown := sorted(set(facts) - known):
        raise ValueError(
            f"{where} has an unknown field {', '.join(unknown)}; known: {', '.join(sorted(known))}"
        )
