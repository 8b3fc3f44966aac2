"""Which row lies where: key -> (segment, slot, crc32), kept in SQLite and looked up in memory.

The table on disk only grows at its end. A table sorted by key would touch a page for each row of a batch,
since digests scatter, and write more bytes than the rows themselves. In memory a row costs about 200 bytes.

In WAL with synchronous NORMAL a commit may be lost with the power but never half of it, and the rows it
names were synced before: losing one costs passing those images again, nothing else.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tlserve.core.errors import CorruptState, StoreUnavailable
from tlserve.features.segments import RowType

_LOADED_AT_ONCE = 50_000
_SHA256_HEX = re.compile(r"[0-9a-f]{64}")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS segments (
    number INTEGER PRIMARY KEY, row_type TEXT NOT NULL, n_rows INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS rows (
    id INTEGER PRIMARY KEY,
    key NOT NULL, segment INTEGER NOT NULL, slot INTEGER NOT NULL, crc INTEGER NOT NULL
);
"""

Name = bytes | str
"""A key as it is kept: the 32 bytes of a sha256, or any other string."""


class SegmentEntry(NamedTuple):
    number: int
    row_type: RowType
    n_rows: int
    """Committed rows, referred to or not."""


class Places(NamedTuple):
    """Where many rows are, each (n,) int64."""

    segment: npt.NDArray[np.int64]
    slot: npt.NDArray[np.int64]
    crc: npt.NDArray[np.int64]


class Index:
    """Owned by one store, the only writer, which holds a lock around every call."""

    def __init__(self, path: Path) -> None:
        """Open or create. Raises CorruptState when the file is no database of ours."""
        self._path = path
        with _translated(path):
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = NORMAL")
                self._db.executescript(_SCHEMA)
                self.segments()
                self._load()
            except sqlite3.Error:
                self._db.close()
                raise

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes inside, or none."""
        with _translated(self._path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                self._load()
                raise

    def __len__(self) -> int:
        return len(self._ids)

    def segments(self) -> list[SegmentEntry]:
        found = self._db.execute("SELECT number, row_type, n_rows FROM segments ORDER BY number").fetchall()
        return [SegmentEntry(*entry) for entry in found]

    def set_segment(self, entry: SegmentEntry) -> None:
        self._db.execute("INSERT OR REPLACE INTO segments VALUES (?, ?, ?)", entry)

    def drop_segment(self, number: int) -> None:
        self._db.execute("DELETE FROM segments WHERE number = ?", (number,))

    def put(self, keys: Sequence[str], segment: int, first_slot: int, crcs: Sequence[int]) -> None:
        """The rows of `keys`, none of which has one, lie one behind the other from `first_slot` on."""
        ids = range(self._next_id, self._next_id + len(keys))
        names = [_pack(key) for key in keys]
        slots = range(first_slot, first_slot + len(keys))
        rows = zip(ids, names, [segment] * len(keys), slots, crcs, strict=True)
        self._db.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?)", rows)
        self._remember(ids, names, [segment] * len(keys), slots, crcs)

    def drop(self, keys: Iterable[str]) -> int:
        """Forget keys; returns how many were known."""
        names = {name for name in map(_pack, keys) if name in self._ids}
        self._db.executemany("DELETE FROM rows WHERE id = ?", ((self._ids[name],) for name in names))
        for name in names:
            del self._ids[name]
        return len(names)

    def drop_rows_from(self, segment: int, slot: int) -> int:
        """Forget the rows of a segment from `slot` on; returns how many."""
        return self.drop([key for key, place, _ in self.of_segment(segment) if place >= slot])

    def known(self, keys: Sequence[str]) -> set[str]:
        """Those of `keys` that have a row."""
        return {key for key in keys if _pack(key) in self._ids}

    def keys(self) -> Iterator[str]:
        return map(_unpack, self._ids)

    def of_segment(self, number: int) -> list[tuple[str, int, int]]:
        """(key, slot, crc) of every row that lies in a segment, by slot."""
        inside = [(name, self._table[place]) for name, place in self._ids.items()]
        found = [(_unpack(name), int(row[1]), int(row[2])) for name, row in inside if row[0] == number]
        return sorted(found, key=lambda row: row[1])

    def places(self, keys: Sequence[str]) -> Places:
        """Where the rows of `keys` are, in that order. Raises CorruptState when one is not there."""
        ids = [self._ids.get(_pack(key), -1) for key in keys]
        if -1 in ids:
            missing = [key for key, place in zip(keys, ids, strict=True) if place < 0]
            raise CorruptState(f"{len(missing)} row(s) are not in {self._path}, such as {missing[0]}")
        rows = self._table[np.array(ids, dtype=np.intp)]
        return Places(rows[:, 0], rows[:, 1], rows[:, 2])

    def close(self) -> None:
        self._db.close()

    def _load(self) -> None:
        """Make the memory equal to the table."""
        self._ids: dict[Name, int] = {}
        self._table = np.empty((0, 3), np.int64)
        """(more than the greatest id, 3): segment, slot, crc; lines of forgotten ids are stale."""
        self._next_id = 0
        rows = self._db.execute("SELECT id, key, segment, slot, crc FROM rows ORDER BY id")
        while part := rows.fetchmany(_LOADED_AT_ONCE):
            self._remember(*zip(*part, strict=True))

    def _remember(
        self,
        ids: Sequence[int],
        names: Sequence[Name],
        segments: Sequence[int],
        slots: Sequence[int],
        crcs: Sequence[int],
    ) -> None:
        """Take in rows whose ids ascend."""
        self._next_id = ids[-1] + 1
        if self._next_id > len(self._table):
            grown = np.empty((max(1024, 2 * self._next_id), 3), np.int64)
            grown[: len(self._table)] = self._table
            self._table = grown
        self._table[np.array(ids)] = np.stack([segments, slots, crcs], axis=1)
        self._ids.update(zip(names, ids, strict=True))


def _pack(key: str) -> Name:
    return bytes.fromhex(key) if _SHA256_HEX.fullmatch(key) else key


def _unpack(name: Name) -> str:
    return name.hex() if isinstance(name, bytes) else name


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """sqlite3's errors as ours: busy, full or unwritable can pass by; the rest is damage."""
    try:
        yield
    except sqlite3.OperationalError as exc:
        raise StoreUnavailable(f"{path}: {exc}") from exc
    except sqlite3.DatabaseError as exc:
        raise CorruptState(f"{path} is damaged: {exc}") from exc
