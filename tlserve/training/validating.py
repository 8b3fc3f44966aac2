"""Which training images validate instant heads: a stable share of each class, told by the image alone."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

MOST = 2_000
SHARE = 0.2
FEWEST_TO_SHARE = 2
"""A class with fewer images needs them to be learnt."""
_ALL = 2**32


@dataclass(eq=False)
class Validators:
    """Images whose hash is low enough for their class validate; the others teach.

    An image's hash is that of its key: its digest, or the name of its group of near duplicates, so that
    these are on one side. A class's bound is fixed when the class is first seen, so an image's side never
    changes while its label does not.
    """

    share: float
    most: int = MOST
    _bounds: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, labels: Sequence[str], keys: Sequence[str], *, most: int = MOST) -> Validators:
        """For these images: a fifth of each class, less where that is more than `most` together."""
        found = cls(min(SHARE, most / max(1, len(labels))), most)
        found.meet(labels, keys)
        return found

    def meet(self, labels: Sequence[str], keys: Sequence[str]) -> None:
        """Fix the bounds of the classes that are new here, from their images."""
        new: dict[str, list[int]] = defaultdict(list)
        for label, key in zip(labels, keys, strict=True):
            if label not in self._bounds:
                new[label].append(_hash(key))
        # Where classes are very many, each cannot give one; then chance decides which do.
        least = 1 if 4 * (len(new) + len(self._bounds)) <= self.most else 0
        for label, hashes in new.items():
            self._bounds[label] = self._bound(np.array(hashes), least)

    def forget(self, label: str) -> None:
        """The class is gone; if it comes back it is new."""
        self._bounds.pop(label, None)

    def __contains__(self, image: tuple[str, str]) -> bool:
        """image: its label and its key."""
        label, key = image
        return _hash(key) < self._bounds[label]

    def _bound(self, hashes: np.ndarray[tuple[int], np.dtype[np.int64]], least: int) -> int:
        n = len(hashes)
        wanted = max(least, round(n * self.share))
        if n < FEWEST_TO_SHARE or not wanted:
            return int(self.share * _ALL)
        return int(np.partition(hashes, wanted - 1)[wanted - 1]) + 1


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest())
