"""One reconcile: the folder as it is now against what is known of it; the answer is a snapshot.

Events are hints, this is the truth. A file whose path, size, mtime, ctime and inode are unchanged is
not opened, nor one that merely lies in another folder; everything else is read and named by its content.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tlserve.core.errors import MassDisappearance
from tlserve.core.types import Problem, Snapshot
from tlserve.images import DEFAULT_MAX_PIXELS
from tlserve.ingest.catalog import OK, Catalog, Change, KnownFile
from tlserve.ingest.reading import FileReader, Unread, judgement_holds
from tlserve.ingest.taking import snapshot_id, take
from tlserve.ingest.walk import Stamp, Walk, walk

FEWEST_TO_DISAPPEAR = 4
"""A model with fewer images loses most of them by ordinary work; only a vanished folder is held there."""
KEEP_EVERY_FILES = 256
KEEP_EVERY_SECONDS = 2.0
"""What was read is kept at least this often: all that a kill in the middle can cost."""


class ReconcileCancelled(Exception):
    """The caller's `cancelled` said so. What was read so far is kept; nothing else changed."""


@dataclass(frozen=True, slots=True)
class ScanRules:
    follow_symlinks: bool = False
    max_pixels: int = DEFAULT_MAX_PIXELS


def reconcile(
    catalog: Catalog,
    model: str,
    folder: Path,
    rules: ScanRules,
    *,
    accept_deletions: bool = False,
    workers: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Snapshot:
    """Bring the catalog up to date with `folder` and return the snapshot of its usable images.

    on_progress(done, total): files read, of those that must be; called from this thread.
    Fewer than two usable classes is no error here: the problems say why.

    Raises MassDisappearance when the folder is gone, or more than half of the images it had are, unless
    `accept_deletions`; ReconcileCancelled; StoreUnavailable or CorruptState from the catalog. In each
    case what the last snapshot was taken from stays known as it was.
    """
    known = catalog.files(model)
    found = _walk(folder, rules, model=model, known=known, accept_deletions=accept_deletions)
    sorting = _sort(found, known, rules.max_pixels)
    reader = FileReader(folder, max_pixels=rules.max_pixels, judged=_judged(known) if sorting.to_read else {})
    read = _read(
        catalog, model, reader, sorting.to_read, workers=workers, on_progress=on_progress, cancelled=cancelled
    )

    present = {**sorting.unchanged, **read.files}
    held = read.unread.keys() & known.keys()
    gone = [path for path in known if path not in present and path not in held]
    if not accept_deletions:
        _check_disappearance(model, known, present, gone)
    usable = [present[path] for path in sorted(present) if present[path].verdict == OK]
    taken = take(usable, found.classes, catalog.sides(model), lambda: catalog.groups(model))
    problems = [
        *found.problems,
        *(Problem("unreadable", path, reason) for path, reason in read.unread.items()),
        *(Problem("bad_image", path, file.verdict) for path, file in present.items() if file.verdict != OK),
        *taken.problems,
    ]
    snapshot = Snapshot(
        model=model,
        snapshot_id=snapshot_id(taken.images),
        images=taken.images,
        problems=tuple(sorted(problems, key=lambda problem: (problem.kind, problem.where))),
        files_seen=len(found.files),
        files_opened=read.n_opened,
    )
    catalog.commit(snapshot, Change(sorting.moved, gone, taken.new_sides))
    return snapshot


def _walk(
    folder: Path, rules: ScanRules, *, model: str, known: dict[str, KnownFile], accept_deletions: bool
) -> Walk:
    try:
        return walk(folder, follow_symlinks=rules.follow_symlinks)
    except (FileNotFoundError, NotADirectoryError):
        n_images = sum(bool(file.taken) and file.verdict == OK for file in known.values())
        if n_images and not accept_deletions:
            raise MassDisappearance(model=model, before=n_images, now=0) from None
        return Walk(problems=(Problem("unreadable", ".", "the model's folder does not exist"),))


@dataclass(slots=True)
class _Sorting:
    unchanged: dict[str, KnownFile] = field(default_factory=dict)
    """By the path they have now; those in `moved` among them."""
    moved: list[KnownFile] = field(default_factory=list)
    to_read: dict[str, Stamp] = field(default_factory=dict)


def _sort(found: Walk, known: dict[str, KnownFile], max_pixels: int) -> _Sorting:
    """Which files are known as they are, and which must be read."""
    sorting = _Sorting()
    unknown: dict[str, Stamp] = {}
    for path, stamp in found.files.items():
        file = known.get(path)
        if file is not None and file[1:5] == stamp:
            sorting.unchanged[path] = file
        else:
            unknown[path] = stamp
    # Renaming a folder leaves the files' own stats alone: equal inode and nanoseconds, equal content.
    by_stamp = {file.stamp: file for file in known.values()} if unknown else {}
    for path, stamp in unknown.items():
        file = by_stamp.get(stamp)
        if file is None:
            sorting.to_read[path] = stamp
        else:
            moved = file._replace(path=path, taken=0)
            sorting.moved.append(moved)
            sorting.unchanged[path] = moved
    for path, file in list(sorting.unchanged.items()):
        if not judgement_holds(file, max_pixels):
            sorting.to_read[path] = file.stamp
            del sorting.unchanged[path]
    for path, file in known.items():
        if path not in found.files and any(_inside(path, folder) for folder in found.unlisted):
            sorting.unchanged[path] = file
    return sorting


def _inside(path: str, folder: str) -> bool:
    return not folder or path.startswith(folder + "/")


def _judged(known: dict[str, KnownFile]) -> dict[str, KnownFile]:
    return {file.digest: file for file in known.values() if file.digest}


@dataclass(slots=True)
class _Read:
    files: dict[str, KnownFile] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    """Path -> why. Files that vanished meanwhile are in neither."""
    n_opened: int = 0


def _read(
    catalog: Catalog,
    model: str,
    reader: FileReader,
    to_read: dict[str, Stamp],
    *,
    workers: int,
    on_progress: Callable[[int, int], None] | None,
    cancelled: Callable[[], bool],
) -> _Read:
    """Read files and keep what they gave, chunk by chunk."""
    read = _Read()
    if not to_read:
        return read
    chunk: list[KnownFile] = []
    kept_at = time.monotonic()
    results: Iterable[KnownFile | Unread] = reader.read_all(to_read, workers=workers, cancelled=cancelled)
    for done, result in enumerate(results, start=1):
        if isinstance(result, Unread):
            read.n_opened += result.opened
            if result.reason is not None:
                read.unread[result.path] = result.reason
        else:
            read.n_opened += bool(result.digest)
            read.files[result.path] = result
            chunk.append(result)
        if len(chunk) >= KEEP_EVERY_FILES or time.monotonic() - kept_at >= KEEP_EVERY_SECONDS:
            catalog.add_read(model, chunk)
            chunk, kept_at = [], time.monotonic()
        if on_progress is not None:
            on_progress(done, len(to_read))
    catalog.add_read(model, chunk)
    if cancelled():
        raise ReconcileCancelled
    return read


def _check_disappearance(
    model: str, known: dict[str, KnownFile], present: dict[str, KnownFile], gone: Sequence[str]
) -> None:
    """Raise MassDisappearance when more than half of what was taken before is nowhere now.

    Content counts, not paths: a renamed folder loses nothing. Nor does replaced content disappear: a
    person put something else there.
    """
    before = [file for file in known.values() if file.taken and file.verdict == OK]
    if len(before) < FEWEST_TO_DISAPPEAR or not gone:
        return
    contents = {file.digest for file in present.values()}
    lost = sum(
        1
        for path in gone
        if (file := known[path]).taken and file.verdict == OK and file.digest not in contents
    )
    if 2 * lost > len(before):
        raise MassDisappearance(model=model, before=len(before), now=len(before) - lost)
