"""How files become durable and visible at once: write aside, sync, rename, sync the folder.

Every foreign error of the file system is translated here, once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tlserve.core.errors import StoreUnavailable


@contextmanager
def store_errors(path: Path, doing: str) -> Iterator[None]:
    """OSError becomes StoreUnavailable, naming the path and what was tried."""
    try:
        yield
    except OSError as exc:
        raise StoreUnavailable(f"cannot {doing} {path}: {exc.strerror or exc}") from exc


def write_synced(path: Path, data: bytes) -> None:
    """Write `data` to `path` and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """`path` holds either what it held or all of `data`, whenever the power fails.

    One writer per path: the temporary name beside it is fixed, so that a crash leaves at most one.
    """
    aside = path.with_name(f".{path.name}.writing")
    try:
        write_synced(aside, data)
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def fill_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make `folder` with these files, all on the disk when it returns."""
    folder.mkdir()
    for name, data in files.items():
        write_synced(folder / name, data)
    sync_folder(folder)
