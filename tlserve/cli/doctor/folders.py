"""Checks of the two folders: where tlserve keeps its state, and the one it watches."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tlserve.cli import wording
from tlserve.cli.doctor.check import Check, fail, ok, warn
from tlserve.settings import Settings

if TYPE_CHECKING:
    from tlserve.ingest.mounts import Mount

LITTLE_SPACE, TOO_LITTLE_SPACE = 2_000_000_000, 100_000_000
FEWEST_IMAGES = 2


def check_state(settings: Settings, mountinfo: Path) -> Iterator[Check]:
    """Space, rights and filesystem of the state folder, which may not exist yet."""
    place = nearest_existing(settings.state)
    free = shutil.disk_usage(place).free
    mount = silent(place, mountinfo)
    found = f"{settings.state}, {free / 1e9:.1f} GB free"
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        yield fail(
            "state folder", f"{place} is no folder we may write to", "choose another, or mend its rights"
        )
    elif mount:
        yield fail(
            "state folder",
            f"{found}, on {mount.kind} ({mount.folder})",
            "SQLite and file locks need a local disk; choose another --state",
        )
    elif free < TOO_LITTLE_SPACE:
        yield fail("state folder", found, "free some space: versions and features cannot be written")
    elif free < LITTLE_SPACE:
        yield warn(
            "state folder", found, "space is short: 100,000 images need about 0.3 GB of features per backbone"
        )
    else:
        yield ok("state folder", found)


def check_watch(settings: Settings, mountinfo: Path, *, needed: bool = True) -> Iterator[Check]:
    """The watch root: there, readable, and on a filesystem that tells of changes.

    needed: False where its absence is no finding, since a daemon that answers watches another.
    """
    watch = settings.watch
    if not watch.is_dir() and not needed:
        return
    if not watch.is_dir():
        yield warn(
            "watch folder", f"{watch} is not there", f"mkdir {watch}, or name another one with --watch"
        )
        return
    if not os.access(watch, os.R_OK | os.X_OK):
        yield fail(
            "watch folder", f"{watch} cannot be read", "mend its rights, or run as a user who may read it"
        )
        return
    if mount := silent(watch, mountinfo):
        found = f"{watch} on {mount.kind} ({mount.folder})"
        yield warn("watch folder", found, "such a disk tells of no changes: it is polled")
    else:
        yield ok("watch folder", f"{watch}, on a local disk")
    yield from check_models(watch, follow_symlinks=settings.follow_symlinks)


def check_models(watch: Path, *, follow_symlinks: bool) -> Iterator[Check]:
    """Folders that cannot be models, and models that cannot be trained yet."""
    from tlserve.ingest import model_folders

    names, problems = model_folders(watch, follow_symlinks=follow_symlinks)
    for problem in problems:
        yield warn(f"folder {problem.where}", problem.reason, "it is ignored until it is mended")
    if not names:
        yield warn("models", "none", f"make one: {watch}/MODEL/CLASS/*.jpg, with at least 2 classes")
    usable = {name: usable_classes(watch / name) for name in names}
    for name, classes in usable.items():
        if len(classes) < FEWEST_IMAGES:
            have = f"only {classes[0]!r}" if classes else "none"
            advice = f"a model needs 2 classes with {FEWEST_IMAGES} images each; it waits until then"
            yield warn(f"model {name}", f"usable class folders: {have}", advice)
    ready = [name for name, classes in usable.items() if len(classes) >= FEWEST_IMAGES]
    if ready:
        named = ", ".join(
            f"{name} ({wording.count(len(usable[name]), 'class', 'classes')})" for name in ready
        )
        yield ok("models", named)


def usable_classes(model: Path) -> list[str]:
    """Class folders with enough visible files; whether these are images, only reading them tells."""
    with os.scandir(model) as entries:
        folders = [one for one in entries if one.is_dir() and not one.name.startswith((".", "_"))]
    return sorted(one.name for one in folders if _has_files(Path(one.path), FEWEST_IMAGES))


def _has_files(folder: Path, enough: int) -> bool:
    found = 0
    for _, _, files in os.walk(folder):
        found += sum(not name.startswith(".") for name in files)
        if found >= enough:
            return True
    return False


def nearest_existing(path: Path) -> Path:
    """`path`, or the closest folder above it that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def silent(path: Path, mountinfo: Path) -> Mount | None:
    """The network or shared filesystem that `path` is on or that is mounted below it, if any."""
    from tlserve.ingest.mounts import silent_mount

    try:
        return silent_mount(mountinfo.read_text(), str(path.resolve()))
    except OSError:  # not Linux: nothing is known about mounts
        return None
