"""A file that appears under its name only when it is complete."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tlserve.core.errors import BadInput


@contextmanager
def download(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, renamed to `path` at the end; an error leaves what was there before.

    Raises BadInput when the folder cannot be written to.
    """
    if path.is_dir():
        raise BadInput(f"{path} is a folder; give the name of the file to write")
    try:
        descriptor, part = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as exc:
        raise BadInput(f"cannot write to {path.parent}: {exc.strerror}") from exc
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        Path(part).chmod(0o644)
        Path(part).replace(path)
    except BaseException:
        Path(part).unlink()
        raise
