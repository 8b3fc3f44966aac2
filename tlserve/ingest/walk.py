"""What lies in a model's folder now: names and stats, no file opened.

The one place that decides which files are candidates for images. Everything unexpected (links, names
that are not UTF-8, folders that cannot be listed) becomes a `Problem`, never an exception.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tlserve.core.types import Problem
from tlserve.ingest.names import SETTINGS_FILE, above, is_ignored, is_set_aside, is_utf8, printable
from tlserve.ingest.scope import EVERYTHING, Scope

Stamp = tuple[int, int, int, int]
"""(size in bytes, mtime_ns, ctime_ns, inode): while these are equal, so is the content."""


def stamp_of(status: os.stat_result) -> Stamp:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


@dataclass(slots=True)
class Walk:
    """The candidates of one model, and what was in the way; all by path relative to the model's folder."""

    scope: Scope = EVERYTHING
    """What was looked at; the model's folder itself always is."""
    files: dict[str, Stamp] = field(default_factory=dict)
    """The first part of each path is the class."""
    classes: set[str] = field(default_factory=set)
    loose: set[str] = field(default_factory=set)
    """Files in no class."""
    links: set[str] = field(default_factory=set)
    """Symbolic links that were not followed."""
    unlisted: dict[str, str] = field(default_factory=dict)
    """Folders that could not be listed ("" is the model's own), and why: nobody knows what they hold."""
    odd: dict[str, Problem] = field(default_factory=dict)
    """Whatever else cannot be used."""

    def problems(self) -> Iterator[Problem]:
        yield from self.odd.values()
        for folder, reason in self.unlisted.items():
            told = f"the folder cannot be listed ({reason}); what was known of it is kept"
            yield Problem("unreadable", folder or ".", told)
        for label, count in Counter(path.partition("/")[0] for path in self.links).items():
            yield Problem("link_skipped", label, links_skipped(count))
        if self.loose:
            files = "1 file lies" if len(self.loose) == 1 else f"{len(self.loose)} files lie"
            advice = "in the model's folder itself, in no class; move them into folders of their class"
            yield Problem("not_in_a_class", ".", f"{files} {advice}")


def walk(folder: Path, *, follow_symlinks: bool) -> Walk:
    """Every candidate file below the class folders of `folder`.

    Raises FileNotFoundError or NotADirectoryError when the folder itself is gone.
    """
    walker = _Walker(str(folder), follow_symlinks)
    walker.list_classes()
    walker.walk_everything()
    return walker.found


def walk_touched(folder: Path, touched: Collection[str], classes: Collection[str]) -> Walk:
    """The same, of the paths in `touched` only and of classes that are not among `classes`, or no longer.

    Links are not followed. Raises as `walk` does.
    """
    walker = _Walker(str(folder), follow_symlinks=False)
    walker.list_classes()
    walker.walk_touched({*touched, *walker.found.classes.symmetric_difference(classes)})
    return walker.found


def reason_of(error: OSError) -> str:
    """What the system says, without the path that stands beside it."""
    return (error.strerror or str(error)).lower()


class _Walker:
    def __init__(self, root: str, follow_symlinks: bool) -> None:
        self.root, self.follow_symlinks = root, follow_symlinks
        self.found = Walk()
        # Real folders already walked for the class at hand: links may lead back to any of them.
        self.visited: set[tuple[int, int]] = set()

    def list_classes(self) -> None:
        try:
            with os.scandir(self.root) as entries:
                for entry in entries:
                    self._place_at_top(entry)
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError as exc:
            self._cannot_list("", exc)

    def walk_everything(self) -> None:
        above_root = _identities_above(self.root) if self.follow_symlinks else set()
        for label in sorted(self.found.classes):
            self.visited = set(above_root)
            if self._is_new_folder(f"{self.root}/{label}"):
                self._walk_below(label)

    def walk_touched(self, touched: Collection[str]) -> None:
        scope = self.found.scope = Scope(map(self._changed_with, touched))
        for path in scope.paths:
            if "/" in path:
                self._walk_at(path)
            elif path in self.found.classes:
                self._walk_below(path)

    def _place_at_top(self, entry: os.DirEntry[str]) -> None:
        name = entry.name
        if is_ignored(name) or is_set_aside(name):
            return
        if not self._is_folder(entry):
            if name != SETTINGS_FILE:
                self.found.loose.add(name)
        elif not is_utf8(name):
            self._bad_name(name)
        elif entry.is_symlink() and not self.follow_symlinks:
            self.found.links.add(name)
        else:
            self.found.classes.add(name)

    def _is_folder(self, entry: os.DirEntry[str]) -> bool:
        """False too for what cannot be told, such as a link to itself, which must not hide its neighbours."""
        try:
            return entry.is_dir()
        except OSError as exc:
            self.found.odd[entry.name] = Problem("unreadable", printable(entry.name), reason_of(exc))
            return False

    def _changed_with(self, path: str) -> str:
        """What must be looked at when `path` was touched: itself, or a folder above that changed too."""
        for folder in above(path):
            if folder not in self.found.classes and not self._is_plain_folder(folder):
                return folder
        return path

    def _is_plain_folder(self, path: str) -> bool:
        try:
            is_folder = "/" in path and stat.S_ISDIR(Path(self.root, path).lstat().st_mode)
        except OSError:
            return False
        return is_folder and is_utf8(path)

    def _walk_at(self, path: str) -> None:
        """What a walk over everything would have found at `path` and below it."""
        if any(map(is_ignored, path.split("/")[1:])):
            return
        try:
            status = Path(self.root, path).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as exc:
            # A walk would have stumbled over it in listing the folder around it.
            self._cannot_list(path.rpartition("/")[0], exc)
            return
        if not is_utf8(path):
            self._bad_name(path)
        elif stat.S_ISLNK(status.st_mode):
            self.found.links.add(path)
        elif stat.S_ISDIR(status.st_mode):
            self._walk_below(path)
        elif stat.S_ISREG(status.st_mode):
            self.found.files[path] = stamp_of(status)

    def _walk_below(self, top: str) -> None:
        folders = [top]
        while folders:
            folder = folders.pop()
            try:
                self._walk_folder(folder, folders)
            except OSError as exc:
                if exc.errno not in (errno.ENOENT, errno.ENOTDIR):
                    self._cannot_list(folder, exc)

    def _walk_folder(self, folder: str, folders: list[str]) -> None:
        prefix = folder + "/"
        files = self.found.files
        with os.scandir(f"{self.root}/{folder}") as entries:
            for entry in entries:
                name = entry.name
                if is_ignored(name):
                    continue
                if not is_utf8(name):
                    self._bad_name(prefix + name)
                elif entry.is_symlink():
                    self._follow(prefix + name, folders)
                elif entry.is_dir(follow_symlinks=False):
                    if self._is_new_folder(entry.path):
                        folders.append(prefix + name)
                elif entry.is_file(follow_symlinks=False):
                    try:
                        files[prefix + name] = stamp_of(entry.stat(follow_symlinks=False))
                    except FileNotFoundError:
                        continue

    def _follow(self, path: str, folders: list[str]) -> None:
        if not self.follow_symlinks:
            self.found.links.add(path)
            return
        try:
            target = Path(self.root, path).stat()
        except OSError as exc:
            self._odd_link(path, f"the link leads nowhere: {reason_of(exc)}")
            return
        if stat.S_ISREG(target.st_mode):
            self.found.files[path] = stamp_of(target)
        elif stat.S_ISDIR(target.st_mode):
            if self._is_new_folder(f"{self.root}/{path}"):
                folders.append(path)
            else:
                self._odd_link(path, "the link leads to a folder that is already here")

    def _is_new_folder(self, path: str) -> bool:
        """Whether this real folder was not walked for this class yet; only links can bring one twice."""
        if not self.follow_symlinks:
            return True
        try:
            status = Path(path).stat()
        except OSError:
            return True
        identity = (status.st_dev, status.st_ino)
        new = identity not in self.visited
        self.visited.add(identity)
        return new

    def _bad_name(self, path: str) -> None:
        reason = "the name is not valid UTF-8; rename it to have it used"
        self.found.odd[path] = Problem("bad_name", printable(path), reason)

    def _odd_link(self, path: str, reason: str) -> None:
        self.found.odd[path] = Problem("link_skipped", path, reason)

    def _cannot_list(self, folder: str, error: OSError) -> None:
        self.found.unlisted[folder] = reason_of(error)


def _identities_above(folder: str) -> set[tuple[int, int]]:
    """The folder itself and every folder above it: a link to one of them would swallow other classes."""
    real = Path(folder).resolve()
    statuses = [path.stat() for path in (real, *real.parents)]
    return {(status.st_dev, status.st_ino) for status in statuses}


def links_skipped(count: int) -> str:
    links = "1 symbolic link is" if count == 1 else f"{count} symbolic links are"
    return f"{links} skipped; set follow_symlinks to use them"
