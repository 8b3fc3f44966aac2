"""What a head learns from: the rows of images, and of augmented views of them, and which image each shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tlserve.core.errors import NonFiniteRow
from tlserve.core.types import Features
from tlserve.training.arrays import Float32, Ints
from tlserve.training.rows import RowSource

COMFORTABLE_BYTES = 2**30
"""Rows that take no more as float32 are simply read."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Rows of images first, then rows of their views; validated when made.

    rows: (n_rows, n_features) float32, raw. image_of: (n_rows,) the image each row shows, in [0, n_images);
    the first n_images rows are the images themselves, in order. targets: (n_images,) class of each image in
    [0, n_classes). names: the classes, sorted. groups: (n_images,) near duplicates share a number; they
    share a fold too.
    """

    rows: Features
    image_of: Ints
    targets: Ints
    names: tuple[str, ...]
    groups: Ints

    @classmethod
    def of(
        cls,
        rows: Features,
        labels: Sequence[str],
        *,
        views: Features | None = None,
        views_of: Sequence[int] = (),
        groups: Sequence[int] | None = None,
    ) -> Examples:
        """From (n_images, n_features) rows and one label each.

        views: (n_views, n_features) rows of views; views_of: the position of the image that each shows.
        Raises ValueError for fewer than two labels or shapes that do not match, NonFiniteRow.
        """
        if rows.ndim != 2 or len(rows) != len(labels):
            raise ValueError(f"rows of shape {rows.shape} do not match {len(labels)} labels")
        names = tuple(sorted(set(labels)))
        if len(names) < 2:
            raise ValueError(f"a classifier needs at least two labels, not {len(names)}")
        everything = rows if views is None else np.concatenate([rows, views])
        if not np.isfinite(everything).all():
            raise NonFiniteRow("a training row holds NaN or infinity")
        index = {name: position for position, name in enumerate(names)}
        own = np.arange(len(rows))
        image_of = np.concatenate([own, np.asarray(views_of, dtype=np.intp)])
        if len(image_of) != len(everything) or (image_of >= len(rows)).any() or (image_of < 0).any():
            raise ValueError(
                f"{len(everything) - len(rows)} views, but {len(image_of) - len(rows)} images of them"
            )
        return cls(
            rows=everything,
            image_of=image_of,
            targets=np.fromiter((index[label] for label in labels), dtype=np.intp, count=len(labels)),
            names=names,
            groups=own if groups is None else np.asarray(groups, dtype=np.intp),
        )

    @property
    def n_images(self) -> int:
        return len(self.targets)

    @property
    def n_classes(self) -> int:
        return len(self.names)

    @property
    def row_targets(self) -> Ints:
        """(n_rows,) the class of each row."""
        return np.asarray(self.targets[self.image_of])

    @property
    def row_weights(self) -> Float32:
        """(n_rows,) float32: an image and its views together count as one image."""
        return np.asarray((1 / np.bincount(self.image_of))[self.image_of], dtype=np.float32)

    def originals(self) -> Examples:
        """The same without views."""
        if len(self.rows) == self.n_images:
            return self
        own = np.arange(self.n_images)
        return Examples(self.rows[: self.n_images], own, self.targets, self.names, self.groups)


@dataclass(frozen=True, eq=False)
class StreamedExamples:
    """What a head learns from, its rows left where they are. Made by `of`.

    targets: (n_images,) class of each in [0, n_classes). names: the classes, sorted. groups: (n_images,) near
    duplicates share a number.
    """

    source: RowSource
    targets: Ints
    names: tuple[str, ...]
    groups: Ints

    @classmethod
    def of(
        cls, source: RowSource, labels: Sequence[str], *, groups: Sequence[int] | None = None
    ) -> StreamedExamples:
        """Raises ValueError for fewer than two labels or rows that do not match."""
        names = tuple(sorted(set(labels)))
        if len(source) != len(labels) or len(names) < 2:
            raise ValueError(f"{len(source)} rows of {len(labels)} images with {len(names)} labels")
        index = {name: at for at, name in enumerate(names)}
        targets = np.fromiter((index[label] for label in labels), dtype=np.intp, count=len(labels))
        together = np.arange(len(labels)) if groups is None else np.asarray(groups, dtype=np.intp)
        return cls(source, targets, names, together)

    @property
    def fits_memory(self) -> bool:
        """Whether all rows may be read at once: up to 1 GB as float32."""
        return 4 * len(self.source) * self.source.n_features <= COMFORTABLE_BYTES

    def read(self) -> Examples:
        """All of it in memory. Raises NonFiniteRow."""
        rows = self.source.read(slice(0, len(self.source)))
        return Examples.of(rows, self.labels, groups=self.groups.tolist())

    @property
    def labels(self) -> list[str]:
        return [self.names[target] for target in self.targets]
