"""The cache, filled: whatever rows a model's learning needs and does not have go through the backbone now."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Sequence
from pathlib import Path

from tlserve.core.augmentation import Augmentation, view_keys
from tlserve.core.messages import ImagesPassed
from tlserve.core.types import LabelledImage, Snapshot
from tlserve.features import ExtractionProgress, ExtractionResult
from tlserve.pipeline.bench import Bench
from tlserve.pipeline.telling import Teller


class Filler:
    """Fills caches from the files of one model's folder."""

    def __init__(self, folder: Path, max_pixels: int, teller: Teller) -> None:
        self.folder, self.max_pixels = folder, max_pixels
        self._teller = teller

    def images(self, bench: Bench, images: Sequence[LabelledImage]) -> dict[str, str]:
        """Pass the images without a row through the backbone; returns {digest: why it gave none}."""
        missing = set(bench.store.missing([image.digest for image in images]))
        if not missing:
            return {}
        result = bench.extractor(self.max_pixels).extract(
            self._files([image for image in images if image.digest in missing]),
            on_progress=self._report,
            cancelled=self._teller.cancelled,
        )
        bench.keep_speed(result)
        return self._told(bench, result)

    def views(
        self, bench: Bench, images: Sequence[LabelledImage], augmentation: Augmentation, n_views: int
    ) -> None:
        """Pass the augmented views without a row through the backbone. An image that gives none has none."""
        if not self.missing_views(bench, images, augmentation, n_views):
            return
        result = bench.extractor(self.max_pixels).extract_views(
            self._files(images),
            augmentation,
            n_views,
            on_progress=self._report,
            cancelled=self._teller.cancelled,
        )
        self._told(bench, result)

    def missing_views(
        self, bench: Bench, images: Sequence[LabelledImage], augmentation: Augmentation, n_views: int
    ) -> int:
        """How many views have no row yet."""
        keys = (view_keys(image.digest, augmentation, n_views) for image in images)
        return len(bench.store.missing(itertools.chain.from_iterable(keys)))

    def _files(self, images: Sequence[LabelledImage]) -> list[tuple[str, Path]]:
        return list({image.digest: self.folder / image.path for image in images}.items())

    def _report(self, progress: ExtractionProgress) -> None:
        self._teller.tell(progress.done, progress.total, progress.images_per_second, progress.seconds_left)

    def _told(self, bench: Bench, result: ExtractionResult) -> dict[str, str]:
        teller = self._teller
        teller.emit(
            ImagesPassed(teller.job_id, teller.model, bench.spec.name, result.n_passed, n_bad=len(result.bad))
        )
        teller.check_cancelled()
        return dict(result.bad)


def without(snapshot: Snapshot, bad: Collection[str]) -> Snapshot:
    """The snapshot without the images of these digests: another one, by name too."""
    kept = tuple(image for image in snapshot.images if image.digest not in bad)
    partial = hashlib.sha256("\n".join([snapshot.snapshot_id, *sorted(bad)]).encode()).hexdigest()
    return Snapshot(snapshot.model, partial, kept, snapshot.problems, n_unread=snapshot.n_unread)
