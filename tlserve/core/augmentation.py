"""Which augmented views of a picture are wanted, in a user's words, and the names that their rows go by.

The same image, the same policy and the same number always give the same view, on any day and in any
process. So a view is extracted once and its row is kept like that of a picture.

Users write `augment = "light"` or a list, `augment = ["flip", "rotate=15", "erase=0.1@0.3"]`: the name of
an operation, then, where wanted, `=` and its strength, then `@` and the share of views that get it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from tlserve.core.view_steps import KINDS, Operation, Step, drawn

DRAWING_VERSION = 1
"""Goes up when a view of the same words comes to look different: then no row of an older one is used."""

_POLICY_DIGITS = 16
_ITEM = re.compile(r"\s*([a-z_]+)\s*(?:=\s*([0-9.]+)\s*)?(?:@\s*([0-9.]+)\s*)?")
_ALSO = {"greyscale": "grayscale", "color": "colour"}
_COLOUR = 0.2
"""The strength of `colour`, which stands for four operations."""
_COLOUR_DEGREES = 60
"""So `colour=0.2` turns hues by up to 12 degrees, and changes the rest by up to 0.2."""


@dataclass(frozen=True)
class Augmentation:
    """What may become of a picture. Without operations a view is the picture itself."""

    operations: tuple[Operation, ...] = ()
    """Each kind at most once, in the order of `KINDS`."""

    @cached_property
    def digest(self) -> str:
        """sha256 (hex): equal for equal operations, however they were written."""
        told = [[op.name, float(op.strength), float(op.probability)] for op in self.operations]
        canonical = json.dumps({"version": DRAWING_VERSION, "operations": told}, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def indices(self, n_views: int) -> range:
        """The numbers of the views to make where `n_views` are wanted: 1, 2 ...

        Fewer where the operations cannot give so many different ones: flips alone give 1, both kinds 3.
        """
        has_degrees = any(KINDS[op.name].strength for op in self.operations)
        return range(1, 1 + (n_views if has_degrees else min(n_views, 2 ** len(self.operations) - 1)))

    def steps(self, image_digest: str, index: int) -> tuple[Step, ...]:
        """What view `index` (1, 2 ...) of an image gets, in the order to apply it; 0 is the image itself."""
        return drawn(self.operations, f"{image_digest}+{self.digest}", index)

    def words(self) -> list[str]:
        """The operations as a user would write them in full; `policy` reads them back."""
        return [_written(op) for op in self.operations]


def policy(spec: str | Sequence[str]) -> Augmentation:
    """The augmentation that a user asks for: a policy's name, or operations in a list or between commas.

    A policy's name in a list stands for its operations; one that is listed itself replaces the policy's.
    Raises ValueError, which lists what there is and says what to write.
    """
    items = [item.strip() for item in (spec.split(",") if isinstance(spec, str) else spec)]
    if not items or items == ["none"]:
        return Augmentation()
    if "none" in items:
        raise ValueError("augment: 'none' stands alone; leave it out, or all the rest")
    found: dict[str, Operation] = {}
    for name in (item for item in items if item in POLICIES):
        found |= {op.name: op for op in _read_all(POLICIES[name])}
    found |= {op.name: op for op in _read_all([item for item in items if item not in POLICIES])}
    return Augmentation(tuple(found[name] for name in KINDS if name in found))


def view_key(image_digest: str, augmentation: Augmentation, index: int) -> str:
    """The key under which the row of a view is kept; index from 1."""
    return f"{image_digest}+{augmentation.digest[:_POLICY_DIGITS]}+{index}"


def view_keys(image_digest: str, augmentation: Augmentation, n_views: int) -> list[str]:
    """The keys of all views of an image where `n_views` are wanted; see `Augmentation.indices`."""
    return [view_key(image_digest, augmentation, index) for index in augmentation.indices(n_views)]


def image_of(key: str) -> str:
    """The digest of the image that a row belongs to; key: of a picture's own row, or of a view's."""
    return key.partition("+")[0]


def what_there_is() -> str:
    """All that `policy` reads, for a person who wrote something else."""
    kinds = ", ".join(f"{name}={kind.strength:g}" if kind.strength else name for name, kind in KINDS.items())
    return (
        f'Write one of {", ".join(POLICIES)}, or a list such as ["flip", "rotate=15", "erase=0.1@0.3"] '
        f"of: {kinds}, colour={_COLOUR:g} (with these strengths where none is written; after @ the share "
        "of views that get it)"
    )


def _read_all(items: Sequence[str]) -> list[Operation]:
    found = [operation for item in items for operation in _read(item)]
    names = [operation.name for operation in found]
    twice = [name for name in KINDS if names.count(name) > 1]
    if twice:
        raise ValueError(f"augment: {twice[0]!r} is listed twice; write it once (colour stands for four)")
    return found


def _read(item: str) -> Iterator[Operation]:
    """The operations that one item of a list names: one, or the four of `colour`."""
    match = _ITEM.fullmatch(item)
    name = _ALSO.get(match[1], match[1]) if match else ""
    meant = re.split("[=@]", item)[0].strip()
    if match is None and meant in KINDS:
        raise ValueError(f"augment: {item!r} cannot be read; after = and @ stand plain numbers above 0")
    if match is None or (name != "colour" and name not in KINDS):
        raise ValueError(f"augment: {item!r} is not known. {what_there_is()}")
    strength = None if match[2] is None else _number(match[2], item)
    probability = None if match[3] is None else _number(match[3], item)
    if name != "colour":
        yield _operation(name, strength, probability)
        return
    share = _COLOUR if strength is None else strength
    for part in ("brightness", "contrast", "saturation"):
        yield _operation(part, share, probability)
    yield _operation("hue", share * _COLOUR_DEGREES, probability)


def _operation(name: str, strength: float | None, probability: float | None) -> Operation:
    """Raises ValueError outside of the limits of its kind."""
    kind = KINDS[name]
    if strength is not None and not kind.strength:
        raise ValueError(f"augment: {name!r} has no strength; write {name!r} alone")
    if probability is not None and name in {"flip", "vertical_flip"}:
        raise ValueError(f"augment: {name!r} always goes to half of the views; write {name!r} alone")
    amount = kind.strength if strength is None else strength
    if kind.strength and (amount <= 0 or not kind.least <= amount <= kind.most):
        limits = f"from {kind.least:g} to {kind.most:g}" if kind.least else f"above 0, at most {kind.most:g}"
        raise ValueError(f"augment: the strength of {name!r} ({kind.says}) must be {limits}, not {amount:g}")
    share = kind.probability if probability is None else probability
    if not 0 < share <= 1:
        raise ValueError(f"augment: the share of views after @ must be above 0, at most 1, not {share:g}")
    return Operation(name, float(amount), float(share))


def _number(text: str, item: str) -> float:
    try:
        return float(text)
    except ValueError as exc:
        raise ValueError(f"augment: {text!r} in {item!r} is no number; write rotate=15@0.5") from exc


def _written(op: Operation) -> str:
    kind = KINDS[op.name]
    strength = f"={op.strength!r}" if kind.strength else ""
    return f"{op.name}{strength}" + (f"@{op.probability!r}" if op.probability != kind.probability else "")


POLICIES: dict[str, tuple[str, ...]] = {
    "none": (),
    "light": ("flip", "crop=0.8", "brightness=0.1", "contrast=0.1"),
    "standard": ("flip", "crop=0.65", "rotate=10", "colour=0.2"),
    "heavy": (
        *("flip", "crop=0.5", "rotate=20@0.5", "perspective=0.1@0.3"),
        *("brightness=0.3", "contrast=0.3", "saturation=0.3", "hue=12", "grayscale@0.1"),
        *("blur=1.5@0.2", "sharpen=1@0.2", "noise=0.04@0.2", "erase=0.15@0.3"),
    ),
}
"""The policies that have a name, from the mildest, as a user would write them out."""
