"""A file of equal records, written once from front to back: what is finished survives a kill.

Each flush syncs the records first and their number after them, so that the number never promises what is
not there. A file whose key is another one, or whose number is unreadable, starts anew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from tlserve.core.errors import StoreUnavailable

Records = npt.NDArray[Any]


class SlotFile:
    """`n_slots` records of `width` numbers of one type; the first `finished` of them are there.

    key: of all that the records depend on; a file under another key is not used.
    Raises StoreUnavailable wherever the disk does not do its part.
    """

    def __init__(self, path: Path, *, key: str, n_slots: int, width: int, dtype: npt.DTypeLike) -> None:
        self.path = path
        self.n_slots, self.width, self.dtype = n_slots, width, np.dtype(dtype)
        self._count_path = path.with_suffix(".json")
        self._key = key
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.finished = self._found()
            self._file = path.open("r+b" if self.finished else "w+b")
            self._file.truncate(self.finished * self.record_bytes)
            self._file.seek(0, os.SEEK_END)
        except OSError as exc:
            raise StoreUnavailable(f"cannot write the activation cache {path}: {exc}") from exc
        self._records: Records | None = None

    @property
    def record_bytes(self) -> int:
        return self.width * self.dtype.itemsize

    def append(self, records: Records) -> None:
        """Add finished records, (n, width), after the last ones."""
        try:
            self._file.write(np.ascontiguousarray(records, dtype=self.dtype).data)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._write_count(self.finished + len(records))
        except OSError as exc:
            raise StoreUnavailable(
                f"cannot write the activation cache {self.path}: {exc}; free some disk, or lower "
                "activation_cache_gb"
            ) from exc
        self.finished += len(records)
        self._records = None

    def read(self, slots: npt.NDArray[np.intp]) -> Records:
        """The records of these finished slots, (n, width)."""
        if self._records is None:
            self._records = np.memmap(
                self.path, dtype=self.dtype, mode="r", shape=(self.finished, self.width)
            )
        return np.asarray(self._records[slots])

    def close(self) -> None:
        self._records = None
        self._file.close()

    def __enter__(self) -> SlotFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _found(self) -> int:
        """How many records are there under this key."""
        try:
            told = json.loads(self._count_path.read_text(encoding="utf-8"))
            if told["key"] != self._key or told["record_bytes"] != self.record_bytes:
                return 0
            finished = int(told["finished"])
            there = self.path.stat().st_size // self.record_bytes
        except (OSError, ValueError, KeyError, TypeError):
            return 0
        return min(finished, self.n_slots) if finished <= there else 0

    def _write_count(self, finished: int) -> None:
        told = {"key": self._key, "record_bytes": self.record_bytes, "finished": finished}
        making = self._count_path.with_suffix(".part")
        making.write_text(json.dumps(told), encoding="utf-8")
        making.replace(self._count_path)
