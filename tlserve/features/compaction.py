"""Free the bytes of rows that no image needs any more, by copying those that are needed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from tlserve.core.augmentation import image_of
from tlserve.features.index import Index, SegmentEntry
from tlserve.features.rows import bytes_held, crc32s, write_rows
from tlserve.features.segments import SegmentFolder

_BLOCK_ROWS = 4096


@dataclass(frozen=True, slots=True)
class CompactionReport:
    """What a compaction found and did."""

    compacted: bool
    rows_before: int
    rows_after: int
    bytes_before: int
    bytes_after: int


def compact(
    files: SegmentFolder, index: Index, keep: Collection[str], *, threshold: float, segment_bytes: int
) -> CompactionReport:
    """Copy the rows of the images `keep` into new segments and remove the old ones, if that frees enough.

    keep: a set of image digests; the rows of their augmented views stay too. threshold: the share of all
    row bytes that must be freed for it to be worth while.
    A crash before the commit leaves new segments that nothing names, one after it old ones: opening
    removes either.
    """
    old = index.segments()
    rows_before, bytes_before = len(index), bytes_held(files, index)
    total = sum(entry.n_rows * files[entry.number].row_bytes for entry in old)
    needed = sum(_n_kept(index, entry, keep) * files[entry.number].row_bytes for entry in old)
    if total - needed <= threshold * total:
        return CompactionReport(False, rows_before, rows_before, bytes_before, bytes_before)
    last = max(entry.number for entry in old)
    try:
        with index.transaction():
            for entry in old:
                _move(files, index, entry, keep, segment_bytes=segment_bytes, after=last)
    except BaseException:
        _remove_above(files, last)
        raise
    for entry in old:
        files.remove(entry.number)
    return CompactionReport(True, rows_before, len(index), bytes_before, bytes_held(files, index))


def _n_kept(index: Index, entry: SegmentEntry, keep: Collection[str]) -> int:
    return sum(image_of(key) in keep for key, _, _ in index.of_segment(entry.number))


def _move(
    files: SegmentFolder,
    index: Index,
    entry: SegmentEntry,
    keep: Collection[str],
    *,
    segment_bytes: int,
    after: int,
) -> None:
    """Copy the rows of images in `keep` out of one segment; what fails its checksum is left behind."""
    stored = files[entry.number].mapped(entry.n_rows)
    wanted = [row for row in index.of_segment(entry.number) if image_of(row[0]) in keep]
    index.drop_rows_from(entry.number, 0)
    for start in range(0, len(wanted), _BLOCK_ROWS):
        block = wanted[start : start + _BLOCK_ROWS]
        rows = stored[[slot for _, slot, _ in block]]
        whole = np.array(crc32s(rows)) == np.array([crc for _, _, crc in block])
        keys = [key for (key, _, _), good in zip(block, whole, strict=True) if good]
        write_rows(files, index, keys, rows[whole], segment_bytes=segment_bytes, after=after)
    index.drop_segment(entry.number)


def _remove_above(files: SegmentFolder, last: int) -> None:
    for path in files.on_disk():
        if path.stem.isdigit() and int(path.stem) > last:
            files.remove(int(path.stem))
