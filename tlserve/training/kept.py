"""Rows that stay in memory between two fits: found by digest, added and removed one by one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tlserve.training.arrays import Float32, Ints


class KeptRows:
    """Standardised rows with their digests and labels. A removed row's place is taken by the last one."""

    def __init__(self, n_features: int) -> None:
        self.digests: list[str] = []
        self.labels: list[str] = []
        self._room: Float32 = np.zeros((0, n_features), np.float32)
        self._at: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.digests)

    def __contains__(self, digest: str) -> bool:
        return digest in self._at

    @property
    def rows(self) -> Float32:
        """(n, n_features) float32, in the order of `digests`: a view that the next change invalidates."""
        return self._room[: len(self.digests)]

    @property
    def nbytes(self) -> int:
        return int(self._room.nbytes) + 250 * len(self.digests)

    def places(self, digests: Sequence[str]) -> Ints:
        return np.fromiter((self._at[one] for one in digests), dtype=np.intp, count=len(digests))

    def targets(self, names: Sequence[str]) -> Ints:
        """(n,) where the label of each stands among `names`."""
        index = {name: at for at, name in enumerate(names)}
        return np.fromiter((index[label] for label in self.labels), dtype=np.intp, count=len(self))

    def add(self, digests: Sequence[str], labels: Sequence[str], rows: Float32) -> None:
        """rows: (n, n_features) standardised. Raises ValueError for a digest that is there already."""
        twice = [one for one in digests if one in self._at]
        if twice or len(set(digests)) < len(digests):
            raise ValueError(f"the row of {(twice or list(digests))[0]} is added twice")
        n_before, n_after = len(self), len(self) + len(digests)
        if n_after > len(self._room):
            # An eighth more than needed, so that a drop rarely copies everything; a build copies nothing.
            room = n_after if not n_before else n_after + n_after // 8
            grown = np.empty((room, self._room.shape[1]), np.float32)
            grown[:n_before] = self.rows
            self._room = grown
        self._room[n_before:n_after] = rows
        self._at.update(zip(digests, range(n_before, n_after), strict=True))
        self.digests.extend(digests)
        self.labels.extend(labels)

    def remove(self, digests: Sequence[str]) -> None:
        for digest in digests:
            at, last = self._at.pop(digest), self.digests.pop()
            label = self.labels.pop()
            if last != digest:
                self.digests[at], self.labels[at], self._at[last] = last, label, at
                self._room[at] = self._room[len(self.digests)]
