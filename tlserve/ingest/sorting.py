"""What a walk found against what is known: which files are as they were, moved, gone, or to be read."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Mapping

from tlserve.ingest.knowledge import Knowledge, Sorting
from tlserve.ingest.names import label_of
from tlserve.ingest.reading import judgement_holds
from tlserve.ingest.scope import Scope
from tlserve.ingest.walk import Stamp, Walk


def sort(found: Walk, known: Knowledge, *, max_pixels: int, most_unread: int) -> Sorting:
    """most_unread: so many are to be read now where there are more than twice as many; 0: all."""
    sorting = Sorting()
    rows, files = known.rows, _with_those_waiting(found, known)
    unknown: dict[str, Stamp] = {}
    for path, stamp in files.items():
        file = rows.get(path)
        if file is None or file[1:5] != stamp:
            unknown[path] = stamp
        elif not known.is_there(path):
            if judgement_holds(file, max_pixels):
                sorting.back.append(file)
            else:
                sorting.to_read[path] = stamp
    _sort_missing(sorting, found, files, known)
    _find_moved(sorting, unknown, known, max_pixels)
    if most_unread and len(sorting.to_read) > 2 * most_unread:
        now = _spread(sorting.to_read, most_unread, known.stalled)
        sorting.left = {path: stamp for path, stamp in sorting.to_read.items() if path not in now}
        sorting.to_read = now
    return sorting


def _with_those_waiting(found: Walk, known: Knowledge) -> Mapping[str, Stamp]:
    """A file that waits to be read waits still, unless it was looked at now."""
    if found.scope.is_everything or not known.waiting:
        return found.files
    waiting = {path: stamp for path, stamp in known.waiting.items() if path not in found.scope}
    return waiting | found.files


def _sort_missing(sorting: Sorting, found: Walk, files: Mapping[str, Stamp], known: Knowledge) -> None:
    """What is known, and was not found where it was looked for."""
    unlisted = Scope(found.unlisted)
    if found.scope.is_everything:
        missing: Iterable[str] = known.rows.keys() - files.keys()
    else:
        missing = [path for path in known.paths_in(found.scope) if path not in files]
    for path in missing:
        if not unlisted.is_above(path):
            sorting.gone.append(path)
        elif not known.is_there(path):
            sorting.back.append(known.rows[path])


def _find_moved(sorting: Sorting, unknown: Mapping[str, Stamp], known: Knowledge, max_pixels: int) -> None:
    """Renaming a folder leaves the files' own stats alone: equal inode and nanoseconds, equal content."""
    changed = [known.rows[path] for path in unknown if path in known.rows]
    by_stamp = {file.stamp: file for file in (*changed, *(known.rows[path] for path in sorting.gone))}
    for path, stamp in unknown.items():
        file = by_stamp.get(stamp)
        if file is not None and judgement_holds(file, max_pixels):
            sorting.moved.append(file._replace(path=path, taken=0))
        else:
            sorting.to_read[path] = stamp


def _spread(files: Mapping[str, Stamp], n_files: int, stalled: Mapping[str, str]) -> dict[str, Stamp]:
    """So many of the files, evenly over the classes, and the same ones whenever asked; stalled ones last."""
    by_hash = sorted(files, key=lambda path: (path in stalled, zlib.crc32(path.encode()), path))
    ranks: Counter[str] = Counter()
    ranked: list[tuple[bool, int, int]] = []
    for number, path in enumerate(by_hash):
        label = label_of(path)
        ranked.append((path in stalled, ranks[label], number))
        ranks[label] += 1
    chosen = sorted(ranked)[:n_files]
    return {by_hash[number]: files[by_hash[number]] for _, _, number in chosen}
