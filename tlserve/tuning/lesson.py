"""What a fine-tuning learns from, and in which order it meets it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tlserve.core.tuning import TuneOptions
from tlserve.tuning.activations import Activations
from tlserve.tuning.pictures import Ints, Pictures

EVALUATED_AT_ONCE = 64
VALIDATION_SHARE = 0.1
Batch = tuple[tuple[Tensor, ...], Tensor]
"""What the tuned part reads, and the class of each picture, on the device."""


@dataclass(frozen=True)
class Lesson:
    """Pictures, their classes, and which of them only validate.

    targets: (n,) class of each picture, in [0, n_classes). validation: places of pictures that no step
    sees; they decide which epoch was the best and when to end. class_weights: (n_classes,) float32, how
    much a picture of each class counts; None for the same.
    Raises ValueError for what does not fit together.
    """

    pictures: Pictures
    targets: Ints
    validation: Ints
    n_classes: int
    class_weights: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if self.targets.shape != (len(self.pictures),):
            raise ValueError(f"{len(self.pictures)} pictures, but targets of shape {self.targets.shape}")
        if not len(self.training) or not len(self.validation):
            raise ValueError("fine-tuning needs pictures to learn from and pictures to validate with")
        if self.targets.min() < 0 or self.targets.max() >= self.n_classes:
            raise ValueError(f"targets must lie in [0, {self.n_classes})")
        if self.class_weights is not None and self.class_weights.shape != (self.n_classes,):
            raise ValueError(f"{self.n_classes} classes, but weights {self.class_weights.shape}")

    @property
    def training(self) -> Ints:
        """Places of the pictures that steps see, ascending."""
        return np.setdiff1d(np.arange(len(self.targets), dtype=np.intp), self.validation)

    @property
    def digest(self) -> str:
        """sha256 (hex) of all of it."""
        digest = hashlib.sha256()
        augmentation = self.pictures.augmentation.digest
        told = [self.pictures.digests, len(self.pictures.views), augmentation, self.n_classes]
        digest.update(json.dumps(told).encode())
        digest.update(np.ascontiguousarray(self.targets, np.int64).tobytes())
        digest.update(np.ascontiguousarray(self.validation, np.int64).tobytes())
        digest.update(b"" if self.class_weights is None else self.class_weights.tobytes())
        return digest.hexdigest()


class Batches:
    """A lesson batch by batch. What an epoch draws depends on the seed and its number alone."""

    def __init__(
        self, lesson: Lesson, activations: Activations, options: TuneOptions, device: torch.device
    ) -> None:
        self._lesson, self._activations, self._device = lesson, activations, device
        self._options = options
        self._training = lesson.training

    @property
    def n_steps(self) -> int:
        """Of one epoch. A last batch of one picture has no batch statistics, and is left out."""
        whole, rest = divmod(len(self._training), self._options.batch_size)
        return max(1, whole + (rest > 1 or (rest == 1 and not self._options.scratch)))

    def of_epoch(self, epoch: int) -> Iterator[Batch]:
        """Each training picture once, in a random order, each in a random one of its views."""
        draw = np.random.default_rng([self._options.seed, epoch])
        order = draw.permutation(self._training)
        views = draw.integers(0, len(self._lesson.pictures.views), len(order))
        for step in range(self.n_steps):
            part = slice(step * self._options.batch_size, (step + 1) * self._options.batch_size)
            yield self._batch(order[part], views[part])

    def plain(self, images: Ints) -> Iterator[Batch]:
        """Pictures as they are served, in this order."""
        for begin in range(0, len(images), EVALUATED_AT_ONCE):
            some = images[begin : begin + EVALUATED_AT_ONCE]
            yield self._batch(some, np.zeros(len(some), np.intp))

    def _batch(self, images: Ints, views: Ints) -> Batch:
        targets = torch.from_numpy(self._lesson.targets[images].astype(np.int64)).to(self._device)
        return self._activations.batch(images, views), targets


def validation_slice(
    targets: Ints, groups: Ints | None = None, *, share: float = VALIDATION_SHARE, seed: int = 0
) -> Ints:
    """Places of about `share` of each class, ascending; at least one of a class, where it can be spared.

    groups: (n,) pictures with the same number, near duplicates, stay on one side together. No class loses
    more than a third of its pictures to validation.
    """
    numbers = np.arange(len(targets)) if groups is None else groups
    counts = np.bincount(targets)
    wanted = np.maximum(1, np.round(share * counts))
    taken = np.zeros(len(counts))
    chosen = [np.empty(0, np.intp)]
    _, first, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    members = np.split(np.argsort(inverse, kind="stable"), np.cumsum(np.bincount(inverse))[:-1])
    for group in np.random.default_rng(seed).permutation(len(first)):
        places = members[group]
        after = taken + np.bincount(targets[places], minlength=len(counts))
        of_group = targets[places]
        has_room = taken[of_group] < wanted[of_group]
        if has_room.all() and (after[of_group] * 3 <= counts[of_group]).all():
            chosen.append(places)
            taken = after
    return np.sort(np.concatenate(chosen)).astype(np.intp)
