"""The nouns of tlserve: names, images, snapshots. Frozen and free of I/O."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from tlserve.core.errors import BadModelName

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Pixels = npt.NDArray[np.uint8]
"""(n_images, height, width, 3) uint8 RGB."""
Rows = npt.NDArray[np.float32]
"""(n_images, row_width) float32: all taps of a backbone side by side, in the build's order."""
Features = npt.NDArray[np.float32]
"""(n_images, n_features) float32: the columns of a row that one head reads."""
Probabilities = npt.NDArray[np.float32]
"""(n_images, n_classes) float32; each row sums to 1."""


class Split(StrEnum):
    """The side of an image: assigned once, stored, never changed."""

    TRAIN = "train"
    HELD_OUT = "held_out"


def check_model_name(name: str) -> str:
    """`name` unchanged; raises BadModelName when it breaks the rule."""
    if not MODEL_NAME.fullmatch(name):
        raise BadModelName(name)
    return name


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One usable image of a snapshot."""

    digest: str
    """sha256 of the file's bytes, hex."""
    label: str
    split: Split
    path: str
    """One file that holds it, relative to the model's folder."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in a watched folder that a person may want to mend. Nothing is lost by it."""

    kind: str
    """bad_image | conflict | small_class | not_in_a_class | bad_name | link_skipped | unreadable"""
    where: str
    """Path relative to the model's folder, or a class name."""
    reason: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The immutable list of (image digest, class, split) of one model at one moment."""

    model: str
    snapshot_id: str
    """Digest over the set of (digest, label, split) triples: equal content, equal id."""
    images: tuple[LabelledImage, ...]
    problems: tuple[Problem, ...] = ()
    files_seen: int = 0
    files_opened: int = 0
    """How many files the reconcile had to read; 0 when nothing changed."""
    n_unread: int = 0
    """Files that are left for the next reconcile to read, as only a part was wanted now."""
    based_on: str | None = None
    """Id of an earlier snapshot of which it is known what differs; None when it is not."""
    added: tuple[LabelledImage, ...] = ()
    """What it has and `based_on` has not; an image of another class or side now is in both lists."""
    removed: tuple[LabelledImage, ...] = ()
    _counts: dict[str, int] = field(default_factory=dict, compare=False, repr=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in sorted order."""
        return tuple(sorted(self.counts))

    @property
    def counts(self) -> dict[str, int]:
        """Images per class."""
        if not self._counts:
            self._counts.update(Counter(image.label for image in self.images))
        return dict(self._counts)

    def on(self, side: Split) -> tuple[LabelledImage, ...]:
        return tuple(image for image in self.images if image.split is side)
