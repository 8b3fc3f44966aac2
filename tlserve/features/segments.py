"""Segment files: rows of one width and one type behind a small header, appended and mapped, never rewritten.

A segment knows nothing of keys. How many of its rows count is what the index last committed; whatever
lies behind them is a tail that nobody refers to.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from tlserve.core.errors import CorruptState

RowType = Literal["float16", "float32"]
Stored = npt.NDArray[np.floating]
"""(n_rows, row_width) in the segment's own type."""

SUFFIX = ".seg"

_HEADER = struct.Struct("<8sI8s44x")
_MAGIC = b"tlsrows1"


class Segment:
    """One `NNNNNN.seg`. Not safe for several threads; the store holds a lock."""

    def __init__(self, path: Path, row_type: RowType, row_width: int) -> None:
        self.path = path
        self.row_type = row_type
        self.row_width = row_width
        self.row_bytes = row_width * np.dtype(row_type).itemsize
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._map: Stored | None = None

    @classmethod
    def create(cls, path: Path, row_type: RowType, row_width: int) -> Self:
        """A new, empty segment, synced with its folder; takes the place of a file by that name."""
        with path.open("wb") as file:
            file.write(_HEADER.pack(_MAGIC, row_width, row_type.encode()))
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)
        return cls(path, row_type, row_width)

    @classmethod
    def open(cls, path: Path, row_width: int) -> Self:
        """A segment that is there. Raises CorruptState when it is not one of rows of this width."""
        try:
            with path.open("rb") as file:
                magic, width, name = _HEADER.unpack(file.read(_HEADER.size))
        except (OSError, struct.error) as exc:
            raise CorruptState(f"{path} cannot be read as a segment: {exc}") from exc
        types: dict[bytes, RowType] = {b"float16": "float16", b"float32": "float32"}
        row_type = types.get(name.rstrip(b"\0"))
        if magic != _MAGIC or row_type is None or width != row_width:
            raise CorruptState(f"{path} is not a segment of rows of {row_width} numbers")
        return cls(path, row_type, row_width)

    def bytes_of(self, n_rows: int) -> int:
        """The size of this file when it holds `n_rows`."""
        return _HEADER.size + n_rows * self.row_bytes

    def rows_on_disk(self) -> int:
        """Whole rows in the file, committed or not."""
        return max(0, os.fstat(self._file).st_size - _HEADER.size) // self.row_bytes

    def cut(self, n_rows: int) -> int:
        """Drop everything behind the first `n_rows`; returns how many bytes that was."""
        excess = os.fstat(self._file).st_size - self.bytes_of(n_rows)
        if excess > 0:
            self._map = None
            os.ftruncate(self._file, self.bytes_of(n_rows))
            os.fsync(self._file)
        return max(0, excess)

    def write(self, first: int, rows: Stored) -> None:
        """Put rows at positions `first`, `first` + 1, ... and wait until they are on the disk."""
        data = np.ascontiguousarray(rows).view(np.uint8).reshape(-1).data
        offset = self.bytes_of(first)
        while data:
            written = os.pwrite(self._file, data, offset)
            data, offset = data[written:], offset + written
        os.fdatasync(self._file)

    def mapped(self, n_rows: int) -> Stored:
        """The first `n_rows` as a read-only view of the file. Raises CorruptState when it is shorter."""
        if self._map is None or len(self._map) < n_rows:
            if self.rows_on_disk() < n_rows:
                raise CorruptState(f"{self.path} lost rows while in use; restart to extract them again")
            shape = (n_rows, self.row_width)
            self._map = np.memmap(self.path, self.row_type, mode="r", offset=_HEADER.size, shape=shape)
        return self._map[:n_rows]

    def close(self) -> None:
        self._map = None
        os.close(self._file)


class SegmentFolder:
    """The segments of one store by number, opened when first needed."""

    def __init__(self, folder: Path, row_width: int) -> None:
        self.folder = folder
        self.row_width = row_width
        self._open: dict[int, Segment] = {}

    def path(self, number: int) -> Path:
        return self.folder / f"{number:06d}{SUFFIX}"

    def __getitem__(self, number: int) -> Segment:
        """Raises CorruptState when there is no such segment of rows of our width."""
        if number not in self._open:
            self._open[number] = Segment.open(self.path(number), self.row_width)
        return self._open[number]

    def create(self, number: int, row_type: RowType) -> Segment:
        self.let_go(number)
        self._open[number] = Segment.create(self.path(number), row_type, self.row_width)
        return self._open[number]

    def on_disk(self) -> list[Path]:
        return sorted(self.folder.glob(f"*{SUFFIX}"))

    def remove(self, number: int) -> None:
        self.let_go(number)
        self.path(number).unlink(missing_ok=True)

    def let_go(self, number: int) -> None:
        """Close one segment; arrays that were mapped from it stay good."""
        if number in self._open:
            self._open.pop(number).close()

    def close(self) -> None:
        for number in list(self._open):
            self.let_go(number)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` as durable as the files behind them."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
