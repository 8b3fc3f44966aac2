"""The bottleneck cache: each image's row, kept by the image's digest, so a backbone sees an image once.

One folder for each build: append-only segments and an index. A row is on the disk before the index names
it, so a crash at any moment leaves rows that are whole or not there at all, and opening tidies up.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from tlserve.core.errors import CorruptState, NonFiniteRow, StateLocked, StoreUnavailable
from tlserve.core.types import Rows
from tlserve.features.compaction import CompactionReport, compact
from tlserve.features.index import Index
from tlserve.features.recovery import Recovery, open_index, recover
from tlserve.features.rows import SEGMENT_BYTES, bytes_held, read_rows, write_rows
from tlserve.features.segments import SegmentFolder

LOCK_FILE = "lock"

_HALF_MAX = float(np.finfo(np.float16).max)
_HALF_TINY = float(np.finfo(np.float16).tiny)


class FeatureStore:
    """Rows by key. Any thread may call, and calls take turns; one process at a time."""

    def __init__(self, folder: Path, *, row_width: int, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Open or create the store in `folder` and mend what a crash left; `recovery` tells what.

        segment_bytes: a segment is full beyond this.
        Raises StateLocked when another process has it open, StoreUnavailable when the disk refuses.
        """
        self.row_width = row_width
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._turn = threading.RLock()
        with _translated(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._lock: int | None = _locked(folder / LOCK_FILE)
        try:
            with _translated(folder):
                self._index: Index = open_index(folder)
                self._files = SegmentFolder(folder, row_width)
                self.recovery: Recovery = recover(self._files, self._index)
        except BaseException:
            os.close(self._lock)
            raise

    def __len__(self) -> int:
        with self._turn:
            return len(self._index)

    @property
    def size_bytes(self) -> int:
        """Of all segments together, unreferenced rows included."""
        with self._turn:
            return bytes_held(self._files, self._index)

    def keys(self) -> list[str]:
        """Every key that has a row, sorted."""
        with self._turn:
            return sorted(self._index.keys())

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Those without a row, in the order given, each once."""
        wanted = list(dict.fromkeys(digests))
        with self._turn:
            known = self._index.known(wanted)
        return [digest for digest in wanted if digest not in known]

    def append(self, digests: Sequence[str], rows: Rows) -> None:
        """Keep one row for each digest; a digest that has one already keeps it.

        rows: (len(digests), row_width). Kept as float16, or as float32 where float16 would overflow or
        lose the whole row. When this returns, the rows are on the disk.
        Raises NonFiniteRow, naming the digests, and then keeps none; StoreUnavailable when the disk refuses.
        """
        if rows.shape != (len(digests), self.row_width):
            raise ValueError(
                f"{len(digests)} digests, but rows of shape {rows.shape}; width {self.row_width}"
            )
        largest = np.abs(rows).max(axis=1)
        _refuse_non_finite(digests, largest)
        with self._turn, _translated(self._folder), self._index.transaction():
            wanted = set(self.missing(digests))
            first = {
                digest: place for place, digest in reversed(list(enumerate(digests))) if digest in wanted
            }
            picked = np.array(sorted(first.values()), dtype=np.intp)
            half = (largest[picked] == 0) | ((largest[picked] <= _HALF_MAX) & (largest[picked] >= _HALF_TINY))
            for places, row_type in ((picked[half], np.float16), (picked[~half], np.float32)):
                keys = [digests[place] for place in places]
                stored = rows[places].astype(row_type)
                write_rows(self._files, self._index, keys, stored, segment_bytes=self._segment_bytes)

    def read(
        self, digests: Sequence[str], columns: slice | npt.NDArray[np.intp] | None = None
    ) -> npt.NDArray[np.float32]:
        """The rows of `digests`, in that order: (len(digests), n_columns) float32; all columns by default.

        Every row read is checked against its crc32. Raises CorruptState when a row is not there or is
        damaged; damaged ones are forgotten, so that the next pass extracts them again.
        """
        with self._turn, _translated(self._folder):
            rows, damaged = read_rows(self._files, self._index, digests, columns)
            if damaged:
                self.forget(damaged)
                raise CorruptState(
                    f"{len(damaged)} row(s) in {self._folder} fail their checksum, such as {damaged[0]}; "
                    "they are dropped and the next pass extracts them again"
                )
            return rows

    def forget(self, digests: Collection[str]) -> int:
        """Drop rows from the index; `compact` frees their bytes. Returns how many there were."""
        with self._turn, self._index.transaction():
            return self._index.drop(digests)

    def compact(self, referenced: Collection[str], *, threshold: float = 0.5) -> CompactionReport:
        """Drop the rows of all images but `referenced`, if that frees more than `threshold` of the bytes.

        The rows of augmented views stay or go with their image. Those that stay are copied into new
        segments, so it needs room for them.
        Raises StoreUnavailable when the disk refuses, with the store as it was.
        """
        keep = frozenset(referenced)
        with self._turn, _translated(self._folder):
            return compact(
                self._files, self._index, keep, threshold=threshold, segment_bytes=self._segment_bytes
            )

    def close(self) -> None:
        """Release the lock. Closing twice is harmless."""
        with self._turn:
            if self._lock is None:
                return
            self._files.close()
            self._index.close()
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _refuse_non_finite(digests: Sequence[str], largest: npt.NDArray[np.floating]) -> None:
    bad = [digest for digest, value in zip(digests, largest, strict=True) if not np.isfinite(value)]
    if bad:
        raise NonFiniteRow(f"rows with NaN or infinity for {len(bad)} image(s): {', '.join(bad[:5])}")


def _locked(path: Path) -> int:
    """A handle that keeps other processes out until it is closed, or its process ends in any way."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(handle)
        raise StateLocked(f"another process has the feature store {path.parent} open") from exc
    return handle


@contextlib.contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise StoreUnavailable(f"the feature store {folder} cannot be used: {exc}") from exc
