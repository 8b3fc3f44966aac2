"""Opening files: the only code of this room that does. Each file gives what the catalog keeps of it.

A file is believed only if its stat was the same before and after reading; otherwise somebody is writing
it, and the next pass will look again.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tlserve.core.errors import BadImage
from tlserve.images import examine
from tlserve.ingest.catalog import OK, KnownFile
from tlserve.ingest.walk import Stamp, reason_of, stamp_of

LARGEST_FILE_BYTES = 1 << 28
"""256 MiB, held in memory whole while it is read. A larger file is no picture (and is not opened)."""
CLOCK_TICK_NS = 20_000_000
"""File times advance in steps (4 to 10 ms on Linux): a file changed within this time of being read
could change again and keep its stat. So it is left to age first."""
WRITTEN = "it is still being written; it is looked at again in the next pass"
LOOK_AHEAD = 4
"""Files in flight for each worker."""


@dataclass(frozen=True, slots=True)
class Unread:
    """A file that gave nothing this time. reason is None when it is gone."""

    path: str
    reason: str | None
    opened: bool = True


Judged = Callable[[str], KnownFile | None]
"""By digest: a file whose content was judged before, so that a copy need not be decoded again."""


class FileReader:
    """Reads files of one model's folder. Thread-safe: it holds no state that changes."""

    def __init__(self, folder: Path, *, max_pixels: int, judged: Judged) -> None:
        self._folder, self._max_pixels, self._judged = folder, max_pixels, judged

    def read_all(
        self, files: Mapping[str, Stamp], *, workers: int, cancelled: Callable[[], bool]
    ) -> Iterator[KnownFile | Unread]:
        """Results in the order of `files`, read ahead on `workers` threads; ends early when cancelled."""
        with ThreadPoolExecutor(workers, thread_name_prefix="read-images") as pool:
            todo: Iterable[tuple[str, Stamp]] = iter(files.items())
            waiting: deque[Future[KnownFile | Unread]] = deque()
            try:
                while not cancelled():
                    for path, stamp in islice(todo, workers * LOOK_AHEAD - len(waiting)):
                        waiting.append(pool.submit(self.read, path, stamp))
                    if not waiting:
                        return
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def read(self, path: str, seen: Stamp) -> KnownFile | Unread:
        """What the file is now; `seen` is its stat as walked a moment ago."""
        if seen[0] > LARGEST_FILE_BYTES:
            return self._judge(path, seen, digest="", data=None)
        _age(seen)
        try:
            data, before, after = _read_whole(self._folder / path)
        except (FileNotFoundError, NotADirectoryError):
            return Unread(path, None, opened=False)
        except OSError as exc:
            return Unread(path, f"the file cannot be read: {reason_of(exc)}")
        if before != after or len(data) != after[0]:
            return Unread(path, WRITTEN)
        return self._judge(path, after, hashlib.sha256(data).hexdigest(), data)

    def _judge(self, path: str, stamp: Stamp, digest: str, data: bytes | None) -> KnownFile:
        known = self._judged(digest) if digest else None
        if known is not None and judgement_holds(known, self._max_pixels):
            return KnownFile(path, *stamp, digest, known.verdict, known.fingerprint, known.n_pixels)
        if data is None:
            megabytes, limit = stamp[0] / 2**20, LARGEST_FILE_BYTES >> 20
            reason = f"too large for an image: {megabytes:,.0f} MB, at most {limit} are read"
            return KnownFile(path, *stamp, digest, reason, 0, self._max_pixels)
        try:
            found = examine(data, self._max_pixels)
        except BadImage as exc:
            return KnownFile(path, *stamp, digest, str(exc), 0, self._max_pixels)
        fingerprint = found.fingerprint - (1 << 64) if found.fingerprint >> 63 else found.fingerprint
        return KnownFile(path, *stamp, digest, OK, fingerprint, found.width * found.height)


def judgement_holds(file: KnownFile, max_pixels: int) -> bool:
    """Whether a verdict passed earlier is still right under `max_pixels`."""
    return file.n_pixels <= max_pixels if file.verdict == OK else file.n_pixels == max_pixels


def _age(stamp: Stamp) -> None:
    """Wait until a file just changed is older than the clock that stamps it."""
    age_ns = time.time_ns() - max(stamp[1], stamp[2])
    if 0 <= age_ns < CLOCK_TICK_NS:
        time.sleep((CLOCK_TICK_NS - age_ns) / 1e9)


def _read_whole(file: Path) -> tuple[bytes, Stamp, Stamp]:
    # Without O_NONBLOCK a pipe put in the file's place since the walk would block for ever.
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb", buffering=0) as stream:
        before = stamp_of(os.fstat(descriptor))
        data = stream.read(before[0] + 1) if before[0] <= LARGEST_FILE_BYTES else b""
        return data or b"", before, stamp_of(os.fstat(descriptor))
