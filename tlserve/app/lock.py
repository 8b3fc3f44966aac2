"""One process owns a state directory: a lock that the kernel releases when its holder dies."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from types import TracebackType

from tlserve.core.errors import StateLocked, StoreUnavailable


class StateLock:
    """Held from `__enter__` to `__exit__`.

    Raises StateLocked, naming the holder and what to use instead, when another process has it, and
    StoreUnavailable when the directory cannot be written.
    """

    def __init__(self, path: Path, *, holder: str) -> None:
        self._path, self._holder = path, holder
        self._file: int | None = None

    def __enter__(self) -> StateLock:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as exc:
            raise StoreUnavailable(
                f"state directory {self._path.parent} cannot be used: {exc.strerror}"
            ) from exc
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            words = _holder_in_words(os.pread(file, 4096, 0))
            os.close(file)
            raise StateLocked(
                f"state directory {self._path.parent} is in use by {words}; stop it, use another --state, "
                "or ask the daemon instead (tlserve retrain MODEL, or --address)"
            ) from exc
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps({"pid": os.getpid(), "holder": self._holder}).encode(), 0)
        self._file = file
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _holder_in_words(data: bytes) -> str:
    try:
        said = json.loads(data)
        return f"{said['holder']} (process {said['pid']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
