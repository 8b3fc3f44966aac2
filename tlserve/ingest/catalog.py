"""The catalog: what the trainer knows about every file it ever read, in `state/catalog.sqlite3`.

Written by the trainer only, one thread at a time; the daemon may read it meanwhile (WAL). Every public
method is one transaction, so a kill at any moment loses time, never truth. The only thing in it that
the folders could not give again is the sides.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tlserve.core.errors import CorruptState, StoreUnavailable
from tlserve.core.types import Snapshot, Split
from tlserve.ingest.walk import Stamp

OK = "ok"
JOBS_KEPT = 1000
SCHEMA_VERSION = 1
BUSY_SECONDS = 10.0
MOST_ASKED_SINGLY = 5_000
"""For more than so many sides, all are read at once."""

_SCHEMA = """
CREATE TABLE images (
    model TEXT NOT NULL, path TEXT NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, inode INTEGER NOT NULL,
    digest TEXT NOT NULL, verdict TEXT NOT NULL, fingerprint INTEGER NOT NULL, n_pixels INTEGER NOT NULL,
    taken INTEGER NOT NULL,
    PRIMARY KEY (model, path)
) WITHOUT ROWID;
CREATE TABLE sides (
    model TEXT NOT NULL, digest TEXT NOT NULL, side TEXT NOT NULL, "group" TEXT NOT NULL,
    PRIMARY KEY (model, digest)
) WITHOUT ROWID;
CREATE TABLE snapshots (
    number INTEGER PRIMARY KEY, model TEXT NOT NULL, snapshot_id TEXT NOT NULL, taken_at REAL NOT NULL,
    n_images INTEGER NOT NULL, counts TEXT NOT NULL
);
CREATE INDEX snapshots_of_model ON snapshots (model, number);
CREATE TABLE jobs (
    job_id TEXT PRIMARY KEY, model TEXT NOT NULL, state TEXT NOT NULL,
    started_at REAL NOT NULL, ended_at REAL, detail TEXT NOT NULL
);
"""


class KnownFile(NamedTuple):
    """What reading one file once taught. `taken`: a snapshot was built with it (0 or 1)."""

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    digest: str
    verdict: str
    """`OK`, or why it is no image."""
    fingerprint: int
    """64 bits, as the signed integer that SQLite keeps."""
    n_pixels: int
    """Width times height; of a bad file, the max_pixels it was judged under."""
    taken: int = 0

    @property
    def stamp(self) -> Stamp:
        return self[1:5]


@dataclass(frozen=True, slots=True)
class UnfinishedJob:
    job_id: str
    model: str
    started_at: float
    detail: str


@dataclass(frozen=True, slots=True)
class Change:
    """What one reconcile does to the catalog, all of it or nothing."""

    moved: Sequence[KnownFile] = ()
    """Files known under another path, with the path they have now."""
    gone: Sequence[str] = ()
    taken: Iterable[str] = ()
    """Paths with which a snapshot was built for the first time."""
    sides: Mapping[str, tuple[Split, str]] | None = None
    """digest -> (side, group) of images that had none."""


class Catalog:
    """One connection. Raises StoreUnavailable or CorruptState, here and in every method."""

    def __init__(
        self, path: Path, *, read_only: bool = False, clock: Callable[[], float] = time.time
    ) -> None:
        """clock: Unix seconds, for what is recorded."""
        self._path, self._clock = path, clock
        self._commits: Counter[str] = Counter()
        with self._translated():
            mode = "ro" if read_only else "rwc"
            self._db = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={mode}",
                uri=True,
                timeout=BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                self._prepare(read_only)
            except BaseException:
                self._db.close()
                raise

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Catalog:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- images -----------------------------------------------------------------------------------

    def files(self, model: str) -> dict[str, KnownFile]:
        """Everything ever read of a model and still believed to be there, by path."""
        with self._translated():
            rows = self._db.execute(
                "SELECT path, size, mtime_ns, ctime_ns, inode, digest, verdict, fingerprint, n_pixels, taken"
                " FROM images WHERE model = ?",
                (model,),
            )
            return {row[0]: KnownFile._make(row) for row in rows}

    def images(self, model: str) -> list[KnownFile]:
        """The files that are images, in order of path."""
        return [file for _, file in sorted(self.files(model).items()) if file.verdict == OK]

    def digests(self) -> set[str]:
        """The digests of all images of all models: whose rows are worth keeping."""
        with self._translated():
            return {digest for (digest,) in self._db.execute("SELECT DISTINCT digest FROM images")}

    def add_read(self, model: str, files: Iterable[KnownFile]) -> None:
        """Keep what was just read, so that a killed reconcile need not read it again.

        A path that a snapshot was built with before stays so marked: whether images disappeared is
        measured against what was taken.
        """
        with self._transaction():
            self._insert(model, files)

    def sides(self, model: str, digests: Collection[str] | None = None) -> dict[str, Split]:
        """The side of every image that ever got one, by digest; or of some images, those that have one."""
        query = "SELECT digest, side FROM sides WHERE model = ?"
        with self._translated():
            if digests is None or len(digests) > MOST_ASKED_SINGLY:
                return {digest: _SPLITS[side] for digest, side in self._db.execute(query, (model,))}
            found = (self._db.execute(f"{query} AND digest = ?", (model, one)).fetchone() for one in digests)
            return {row[0]: _SPLITS[row[1]] for row in found if row is not None}

    def groups(self, model: str) -> dict[str, Split]:
        """The side of every group of near duplicates; of a group on both, the training side."""
        with self._translated():
            rows = self._db.execute(
                'SELECT "group", max(side) FROM sides WHERE model = ? GROUP BY "group"', (model,)
            )
            return {group: _SPLITS[side] for group, side in rows}

    def group_of_each(self, model: str) -> dict[str, str]:
        """The group of near duplicates of every image that ever got a side, by digest."""
        with self._translated():
            return dict(self._db.execute('SELECT digest, "group" FROM sides WHERE model = ?', (model,)))

    def copies(self, model: str) -> dict[str, list[str]]:
        """The images of which there are several files: digest -> paths, in order."""
        images = "FROM images WHERE model = ? AND verdict = ?"
        several = f"SELECT digest {images} GROUP BY digest HAVING count(*) > 1"
        query = f"SELECT digest, path {images} AND digest IN ({several}) ORDER BY path"
        found: dict[str, list[str]] = {}
        with self._translated():
            for digest, path in self._db.execute(query, (model, OK, model, OK)):
                found.setdefault(digest, []).append(path)
        return found

    # -- snapshots --------------------------------------------------------------------------------

    def commit(self, snapshot: Snapshot, change: Change) -> None:
        """Apply a reconcile and record its snapshot."""
        model = snapshot.model
        with self._transaction() as db:
            db.executemany(
                "DELETE FROM images WHERE model = ? AND path = ?", ((model, p) for p in change.gone)
            )
            self._insert(model, change.moved)
            db.executemany(
                "UPDATE images SET taken = 1 WHERE model = ? AND path = ? AND taken = 0",
                ((model, path) for path in change.taken),
            )
            db.executemany(
                "INSERT OR IGNORE INTO sides VALUES (?, ?, ?, ?)",
                (
                    (model, digest, side.value, group)
                    for digest, (side, group) in (change.sides or {}).items()
                ),
            )
            self._record(snapshot)
        self._commits[model] += 1

    def commits(self, model: str) -> int:
        """How often this model was committed here: who remembers another number missed one."""
        return self._commits[model]

    def record_snapshot(self, snapshot: Snapshot) -> None:
        """Note that this is the newest snapshot of its model; the same one twice is noted once."""
        with self._transaction():
            self._record(snapshot)

    def last_snapshot_id(self, model: str) -> str | None:
        with self._translated():
            row = self._db.execute(
                "SELECT snapshot_id FROM snapshots WHERE model = ? ORDER BY number DESC LIMIT 1", (model,)
            ).fetchone()
            return None if row is None else str(row[0])

    # -- jobs -------------------------------------------------------------------------------------

    def job_started(self, job_id: str, model: str, detail: str = "") -> None:
        """A job that starts again (after a crash) is the same job."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO jobs VALUES (?, ?, 'running', ?, NULL, ?)",
                (job_id, model, self._clock(), detail),
            )

    def job_ended(self, job_id: str, outcome: str, reason: str = "") -> None:
        """The latest jobs are kept, for whoever looks into the file; the rest goes."""
        with self._transaction() as db:
            db.execute(
                "DELETE FROM jobs WHERE state != 'running' AND rowid <= (SELECT max(rowid) FROM jobs) - ?",
                (JOBS_KEPT,),
            )
            db.execute(
                "UPDATE jobs SET state = ?, ended_at = ?, detail = ? WHERE job_id = ?",
                (outcome, self._clock(), reason, job_id),
            )

    def unfinished_jobs(self) -> list[UnfinishedJob]:
        """Jobs that started and never ended: the trainer died under them. Oldest first."""
        with self._translated():
            rows = self._db.execute(
                "SELECT job_id, model, started_at, detail FROM jobs"
                " WHERE state = 'running' ORDER BY started_at"
            )
            return [UnfinishedJob(*row) for row in rows]

    # -- inside -----------------------------------------------------------------------------------

    def _prepare(self, read_only: bool) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, SCHEMA_VERSION):
            raise CorruptState(
                f"{self._path} was written by another tlserve (layout {version}); use that one"
            )
        if read_only:
            return
        self._db.execute("PRAGMA journal_mode = WAL")
        # Sides must outlive a power cut: a version trained on them may.
        self._db.execute("PRAGMA synchronous = FULL")
        if version == 0:
            with self._transaction() as db:
                for statement in _SCHEMA.split(";"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _insert(self, model: str, files: Iterable[KnownFile]) -> None:
        self._db.executemany(
            "INSERT INTO images VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            f" ON CONFLICT (model, path) DO UPDATE SET {_KEEP_TAKEN}",
            ((model, *file) for file in files),
        )

    def _record(self, snapshot: Snapshot) -> None:
        if self.last_snapshot_id(snapshot.model) == snapshot.snapshot_id:
            return
        self._db.execute(
            "INSERT INTO snapshots (model, snapshot_id, taken_at, n_images, counts) VALUES (?, ?, ?, ?, ?)",
            (
                snapshot.model,
                snapshot.snapshot_id,
                self._clock(),
                len(snapshot.images),
                json.dumps(snapshot.counts, ensure_ascii=False, sort_keys=True),
            ),
        )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._translated():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.OperationalError, sqlite3.ProgrammingError) as exc:
            raise StoreUnavailable(f"cannot use {self._path}: {exc}") from exc
        except sqlite3.DatabaseError as exc:
            raise CorruptState(
                f"{self._path} is damaged ({exc}); put a backup in its place, or move it away: the images are"
                " then read again and held-out images are chosen anew"
            ) from exc


_SPLITS = {split.value: split for split in Split}
_KEEP_TAKEN = ", ".join(
    f"{column} = excluded.{column}" for column in KnownFile._fields if column not in ("path", "taken")
)
