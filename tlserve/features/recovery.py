"""Bring index and segments into agreement when a store is opened.

The cache can always be filled again from the images, so whatever does not fit is dropped, never guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tlserve.core.errors import CorruptState
from tlserve.features.index import Index, SegmentEntry
from tlserve.features.segments import SegmentFolder

INDEX_FILE = "index.sqlite3"


@dataclass(frozen=True, slots=True)
class Recovery:
    """What opening had to mend; all zero after a clean stop."""

    cut_bytes: int = 0
    """An uncommitted tail."""
    dropped_rows: int = 0
    """Their bytes are gone; to be extracted again."""
    removed_files: int = 0
    """Segments that the index does not name, or that are none."""


def open_index(folder: Path) -> Index:
    """The index of the store in `folder`; a damaged one is replaced by an empty one."""
    path = folder / INDEX_FILE
    try:
        return Index(path)
    except CorruptState:
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return Index(path)


def recover(files: SegmentFolder, index: Index) -> Recovery:
    """Cut uncommitted tails, drop rows whose bytes are gone, remove segments that nothing names.

    Raises StoreUnavailable or OSError when the disk refuses.
    """
    cut = dropped = removed = 0
    with index.transaction():
        for entry in index.segments():
            rows_lost = _missing_rows(files, entry)
            if rows_lost:
                dropped += _drop_tail(index, entry, rows_lost)
            if rows_lost < entry.n_rows:
                cut += files[entry.number].cut(entry.n_rows - rows_lost)
    named = {files.path(entry.number) for entry in index.segments()}
    for path in files.on_disk():
        if path not in named:
            path.unlink()
            removed += 1
    return Recovery(cut, dropped, removed)


def _missing_rows(files: SegmentFolder, entry: SegmentEntry) -> int:
    """How many committed rows at the end of a segment are not on the disk; all of a broken one."""
    try:
        segment = files[entry.number]
    except CorruptState:
        return entry.n_rows
    if segment.row_type != entry.row_type:
        files.let_go(entry.number)
        return entry.n_rows
    return max(0, entry.n_rows - segment.rows_on_disk())


def _drop_tail(index: Index, entry: SegmentEntry, n_rows: int) -> int:
    """Forget the last rows of a segment, and the segment itself when none is left."""
    left = entry.n_rows - n_rows
    if left:
        index.set_segment(entry._replace(n_rows=left))
    else:
        index.drop_segment(entry.number)
    return index.drop_rows_from(entry.number, left)
