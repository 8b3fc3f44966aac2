"""How a build's folder comes to be: filled under a temporary name, synced, and published in one rename."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from tlserve.core.errors import CorruptState, StoreUnavailable
from tlserve.runtime import GRAPH_FILE, REFERENCE_FILE, BuildSpec, read_build_spec


def published(backbones_dir: Path, spec: BuildSpec, fill: Callable[[Path], None]) -> Path:
    """The folder `backbones_dir/<digest>` of the build `spec`; made by `fill` unless it is there already.

    fill: writes the build's files into the empty folder it is given; what it raises goes through.
    Raises StoreUnavailable when the folder cannot be written. Nothing half-made is ever seen under the
    digest.
    """
    folder = backbones_dir / spec.digest
    if is_whole(folder):
        return folder
    making = backbones_dir / f".making-{spec.digest}"
    try:
        _remove(making)
        making.mkdir(parents=True)
        fill(making)
        _sync(making)
        _remove(folder)
        making.rename(folder)
        _sync_folder(backbones_dir)
    except OSError as exc:
        raise StoreUnavailable(
            f"cannot write the build of {spec.name!r} under {backbones_dir}: {exc}"
        ) from exc
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return folder


def is_whole(folder: Path) -> bool:
    """Whether the build in `folder` can be used as it is."""
    try:
        read_build_spec(folder)
    except CorruptState:
        return False
    return (folder / GRAPH_FILE).is_file() and (folder / REFERENCE_FILE).is_file()


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
