"""One reconcile: the folder as it is now against what is known of it; the answer is a snapshot.

Events are hints, this is the truth. A file whose path, size, mtime, ctime and inode are unchanged is
not opened, nor one that merely lies in another folder; everything else is read and named by its content.

A look at everything and one at the paths that were touched are the same but for what is walked over: both
find what changed, and the snapshot follows from the one before and from that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tlserve.core.errors import MassDisappearance
from tlserve.core.types import Problem, Snapshot
from tlserve.images import DEFAULT_MAX_PIXELS
from tlserve.ingest.catalog import Catalog, Change, KnownFile
from tlserve.ingest.knowledge import Knowledge, Learnt
from tlserve.ingest.memory import FolderMemory
from tlserve.ingest.names import is_inside
from tlserve.ingest.reading import FileReader, Judged, Unread
from tlserve.ingest.sorting import sort
from tlserve.ingest.walk import Stamp, Walk, walk, walk_touched

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
    memory: FolderMemory | None = None,
    touched: Collection[str] | None = None,
    most_unread: int = 0,
    accept_deletions: bool = False,
    workers: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Snapshot:
    """Bring the catalog up to date with `folder` and return the snapshot of its usable images.

    memory: what the look before left behind, so that this one costs what changed; it holds what the next
    one needs, or nothing where this one fails. The snapshot then says how it differs from the one before.
    touched: paths relative to the folder (of files and folders, new, changed, moved or gone) that are all
    that changed since the memory's last look; None, or without a memory of that: everything is looked at.
    Where links are followed, everything is looked at always.
    most_unread: where more than twice as many files are to be read, read so many, spread evenly over the
    classes, and leave the others for the next look (`Snapshot.n_unread`); 0: read all.
    on_progress(done, total): files read, of those that are to be; called from this thread.
    Fewer than two usable classes is no error here: the problems say why.

    Raises MassDisappearance when the folder is gone, or more than half of the images it had are, unless
    `accept_deletions`; ReconcileCancelled; StoreUnavailable or CorruptState from the catalog. In each
    case what the last snapshot was taken from stays known as it was.
    """
    memory = FolderMemory() if memory is None else memory
    subject = (catalog, model, rules, _place(folder))
    known = memory.take((*subject, catalog.commits(model)))
    if known is None:
        known = Knowledge(catalog.files(model))
    found = _walk(folder, rules, touched, model=model, known=known, accept_deletions=accept_deletions)
    sorting = sort(found, known, max_pixels=rules.max_pixels, most_unread=most_unread)
    judged: Judged = known.judged() if sorting.to_read else lambda digest: None
    reader = FileReader(folder, max_pixels=rules.max_pixels, judged=judged)
    read = _read(
        catalog, model, reader, sorting.to_read, workers=workers, on_progress=on_progress, cancelled=cancelled
    )

    learnt = known.learn(found, sorting, read.files, read.stalled, read.vanished)
    if not accept_deletions:
        _check_disappearance(model, learnt)
    taken = known.taking.take(
        learnt.voices,
        catalog.sides(model, learnt.voices.speaking),
        lambda newcomers, tallies: known.give_sides(newcomers, tallies, lambda: catalog.groups(model)),
    )
    snapshot = Snapshot(
        model=model,
        snapshot_id=taken.snapshot_id,
        images=taken.images,
        problems=tuple(sorted(known.problems(), key=lambda problem: (problem.kind, problem.where))),
        files_seen=known.n_files(),
        files_opened=read.n_opened,
        n_unread=len(known.waiting),
        based_on=taken.based_on,
        added=taken.added,
        removed=taken.removed,
        _counts=taken.counts,
    )
    catalog.commit(snapshot, Change(sorting.moved, learnt.gone, learnt.untaken, taken.new_sides))
    memory.keep(known, (*subject, catalog.commits(model)))
    return snapshot


def _place(folder: Path) -> Hashable:
    """Another folder put in the place of this one is another place."""
    try:
        status = folder.stat()
    except OSError:
        return object()  # like nothing else
    return str(folder), status.st_dev, status.st_ino


def _walk(
    folder: Path,
    rules: ScanRules,
    touched: Collection[str] | None,
    *,
    model: str,
    known: Knowledge,
    accept_deletions: bool,
) -> Walk:
    try:
        if touched is not None and known.is_complete and not rules.follow_symlinks:
            paths = {*touched, *known.in_doubt()}
            if all(map(is_inside, paths)):
                return walk_touched(folder, paths, known.around.classes)
        return walk(folder, follow_symlinks=rules.follow_symlinks)
    except (FileNotFoundError, NotADirectoryError):
        if known.n_taken and not accept_deletions:
            raise MassDisappearance(model=model, before=known.n_taken, now=0) from None
        missing = Problem("unreadable", ".", "the model's folder does not exist")
        return Walk(odd={".": missing})


@dataclass(slots=True)
class _Read:
    files: list[KnownFile] = field(default_factory=list)
    stalled: dict[str, str] = field(default_factory=dict)
    """Path -> why it gave nothing."""
    vanished: list[str] = field(default_factory=list)
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
        if isinstance(result, KnownFile):
            read.n_opened += bool(result.digest)
            read.files.append(result)
            chunk.append(result)
        elif result.reason is None:
            read.vanished.append(result.path)
        else:
            read.n_opened += result.opened
            read.stalled[result.path] = result.reason
        if len(chunk) >= KEEP_EVERY_FILES or time.monotonic() - kept_at >= KEEP_EVERY_SECONDS:
            catalog.add_read(model, chunk)
            chunk, kept_at = [], time.monotonic()
        if on_progress is not None:
            on_progress(done, len(to_read))
    catalog.add_read(model, chunk)
    if cancelled():
        raise ReconcileCancelled
    return read


def _check_disappearance(model: str, learnt: Learnt) -> None:
    """Raise MassDisappearance when more than half of what was taken before is nowhere now."""
    before, lost = learnt.n_taken_before, learnt.n_lost
    if before >= FEWEST_TO_DISAPPEAR and 2 * lost > before:
        raise MassDisappearance(model=model, before=before, now=before - lost)
