"""Rows into segments and out of them, many at a time."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tlserve.features.index import Index, SegmentEntry
from tlserve.features.segments import RowType, SegmentFolder, Stored

SEGMENT_BYTES = 256 * 2**20

_BLOCK_ROWS = 1024
"""Rows handled at once while reading: a few megabytes, so that checking and converting stay in cache."""


def write_rows(
    files: SegmentFolder,
    index: Index,
    keys: Sequence[str],
    rows: Stored,
    *,
    segment_bytes: int = SEGMENT_BYTES,
    after: int = 0,
) -> None:
    """Append rows to the newest segment of their type that is numbered above `after` and not full.

    To be called inside a transaction of the index: the rows are synced before that commits.
    rows: (len(keys), row_width) float16 or float32.
    """
    if not keys:
        return
    row_type: RowType = "float16" if rows.dtype == np.float16 else "float32"
    entry = _entry_with_room(files, index, row_type, segment_bytes, after)
    files[entry.number].write(entry.n_rows, rows)
    index.put(keys, entry.number, entry.n_rows, crc32s(rows))
    index.set_segment(entry._replace(n_rows=entry.n_rows + len(keys)))


def read_rows(
    files: SegmentFolder,
    index: Index,
    keys: Sequence[str],
    columns: slice | npt.NDArray[np.intp] | None,
) -> tuple[npt.NDArray[np.float32], list[str]]:
    """The rows of `keys`, (len(keys), n_columns) float32, and those keys whose row fails its checksum.

    Each segment is read in the order it lies on the disk, a block of rows at a time.
    Raises CorruptState when a key is unknown.
    """
    wanted = slice(None) if columns is None else columns
    out = np.empty((len(keys), np.arange(files.row_width)[wanted].size), np.float32)
    places = index.places(keys)
    committed = {entry.number: entry.n_rows for entry in index.segments()}
    damaged: list[str] = []
    for number in np.unique(places.segment).tolist():
        stored = files[number].mapped(committed[number])
        mine = np.flatnonzero(places.segment == number)
        mine = mine[np.argsort(places.slot[mine], kind="stable")]
        for start in range(0, len(mine), _BLOCK_ROWS):
            block = mine[start : start + _BLOCK_ROWS]
            rows = _gather(stored, places.slot[block])
            wrong = np.array(crc32s(rows), dtype=np.int64) != places.crc[block]
            damaged += [keys[position] for position in block[wrong]]
            out[block] = rows[:, wanted]
    return out, damaged


def crc32s(rows: Stored) -> list[int]:
    """The crc32 of each row's bytes."""
    data = np.ascontiguousarray(rows).view(np.uint8).reshape(-1).data
    size = rows.itemsize * rows.shape[1]
    return [zlib.crc32(data[start : start + size]) for start in range(0, len(data), size)]


def bytes_held(files: SegmentFolder, index: Index) -> int:
    """The size of all committed rows with their headers."""
    return sum(files[entry.number].bytes_of(entry.n_rows) for entry in index.segments())


def _gather(stored: Stored, slots: npt.NDArray[np.int64]) -> Stored:
    """Rows at ascending `slots`; without a copy where they are neighbours."""
    first, last = int(slots[0]), int(slots[-1])
    if last - first + 1 == len(slots) and (np.diff(slots) == 1).all():
        return stored[first : last + 1]
    return np.asarray(stored[slots])


def _entry_with_room(
    files: SegmentFolder, index: Index, row_type: RowType, segment_bytes: int, after: int
) -> SegmentEntry:
    entries = index.segments()
    mine = [entry for entry in entries if entry.row_type == row_type and entry.number > after]
    if mine and files[mine[-1].number].bytes_of(mine[-1].n_rows) < segment_bytes:
        return mine[-1]
    number = 1 + max((entry.number for entry in entries), default=0)
    files.create(number, row_type)
    return SegmentEntry(number, row_type, 0)
