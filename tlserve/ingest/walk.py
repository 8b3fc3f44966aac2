"""What lies in a model's folder now: names and stats, no file opened.

The one place that decides which files are candidates for images. Everything unexpected (links, names
that are not UTF-8, folders that cannot be listed) becomes a `Problem`, never an exception.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tlserve.core.errors import BadModelName
from tlserve.core.types import Problem, check_model_name
from tlserve.ingest.names import SETTINGS_FILE, is_ignored, is_set_aside, is_utf8, printable

Stamp = tuple[int, int, int, int]
"""(size in bytes, mtime_ns, ctime_ns, inode): while these are equal, so is the content."""


def stamp_of(status: os.stat_result) -> Stamp:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


@dataclass(frozen=True, slots=True)
class Walk:
    """The candidates of one model, and what was in the way."""

    files: dict[str, Stamp] = field(default_factory=dict)
    """By path relative to the model's folder; the first part is the class."""
    classes: tuple[str, ...] = ()
    unlisted: tuple[str, ...] = ()
    """Folders that exist but could not be listed ("" is the model's own): nobody knows what they hold."""
    problems: tuple[Problem, ...] = ()


def model_folders(watch: Path, *, follow_symlinks: bool) -> tuple[list[str], list[Problem]]:
    """The models directly under the watch root, sorted, and the folders that cannot be models.

    A root that cannot be listed gives no models and one `unreadable` problem.
    """
    models: list[str] = []
    problems: list[Problem] = []
    try:
        with os.scandir(watch) as entries:
            found = [
                entry for entry in entries if not is_ignored(entry.name) and not is_set_aside(entry.name)
            ]
    except OSError as exc:
        return [], [Problem("unreadable", str(watch), reason_of(exc))]
    for entry in sorted(found, key=lambda entry: entry.name):
        try:
            if not entry.is_dir():
                continue
        except OSError as exc:
            problems.append(Problem("unreadable", printable(entry.name), reason_of(exc)))
            continue
        if entry.is_symlink() and not follow_symlinks:
            problems.append(Problem("link_skipped", printable(entry.name), _links(1)))
            continue
        try:
            models.append(check_model_name(entry.name))
        except BadModelName as exc:
            problems.append(Problem("bad_name", printable(entry.name), printable(str(exc))))
    return models, problems


def walk(folder: Path, *, follow_symlinks: bool) -> Walk:
    """Every candidate file below the class folders of `folder`.

    Raises FileNotFoundError or NotADirectoryError when the folder itself is gone.
    """
    return _Walker(str(folder), follow_symlinks).walk()


def reason_of(error: OSError) -> str:
    """What the system says, without the path that stands beside it."""
    return (error.strerror or str(error)).lower()


class _Walker:
    def __init__(self, root: str, follow_symlinks: bool) -> None:
        self.root, self.follow_symlinks = root, follow_symlinks
        self.files: dict[str, Stamp] = {}
        self.unlisted: list[str] = []
        self.problems: list[Problem] = []
        self.skipped_links: Counter[str] = Counter()
        # Real folders already walked for the class at hand: links may lead back to any of them.
        self.visited: set[tuple[int, int]] = set()

    def walk(self) -> Walk:
        classes = self._classes()
        above = _identities_above(self.root) if self.follow_symlinks else set()
        for label in classes:
            self.visited = set(above)
            if self._is_new_folder(f"{self.root}/{label}"):
                self._walk_class(label)
        for label, count in self.skipped_links.items():
            self.problems.append(Problem("link_skipped", label, _links(count)))
        return Walk(self.files, tuple(classes), tuple(self.unlisted), tuple(self.problems))

    def _classes(self) -> list[str]:
        classes = []
        loose = 0
        try:
            with os.scandir(self.root) as entries:
                for entry in entries:
                    if is_ignored(entry.name) or is_set_aside(entry.name):
                        continue
                    if not self._is_folder(entry):
                        loose += entry.name != SETTINGS_FILE
                        continue
                    if not is_utf8(entry.name):
                        self._bad_name(entry.name)
                    elif entry.is_symlink() and not self.follow_symlinks:
                        self.skipped_links[entry.name] += 1
                    else:
                        classes.append(entry.name)
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError as exc:
            self._cannot_list("", exc)
        if loose:
            files = "1 file lies" if loose == 1 else f"{loose} files lie"
            reason = (
                f"{files} in the model's folder itself, in no class; move them into folders of their class"
            )
            self.problems.append(Problem("not_in_a_class", ".", reason))
        return sorted(classes)

    def _is_folder(self, entry: os.DirEntry[str]) -> bool:
        """False too for what cannot be told, such as a link to itself, which must not hide its neighbours."""
        try:
            return entry.is_dir()
        except OSError as exc:
            self.problems.append(Problem("unreadable", printable(entry.name), reason_of(exc)))
            return False

    def _walk_class(self, label: str) -> None:
        folders = [label]
        while folders:
            folder = folders.pop()
            try:
                self._walk_folder(folder, folders)
            except OSError as exc:
                if exc.errno not in (errno.ENOENT, errno.ENOTDIR):
                    self._cannot_list(folder, exc)

    def _walk_folder(self, folder: str, folders: list[str]) -> None:
        prefix = folder + "/"
        files = self.files
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
            self.skipped_links[path.partition("/")[0]] += 1
            return
        try:
            target = Path(self.root, path).stat()
        except OSError as exc:
            self.problems.append(Problem("link_skipped", path, f"the link leads nowhere: {reason_of(exc)}"))
            return
        if stat.S_ISREG(target.st_mode):
            self.files[path] = stamp_of(target)
        elif stat.S_ISDIR(target.st_mode):
            if self._is_new_folder(f"{self.root}/{path}"):
                folders.append(path)
            else:
                self.problems.append(
                    Problem("link_skipped", path, "the link leads to a folder that is already here")
                )

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
        self.problems.append(
            Problem("bad_name", printable(path), "the name is not valid UTF-8; rename it to have it used")
        )

    def _cannot_list(self, folder: str, error: OSError) -> None:
        self.unlisted.append(folder)
        reason = f"the folder cannot be listed ({reason_of(error)}); what was known of it is kept"
        self.problems.append(Problem("unreadable", folder or ".", reason))


def _identities_above(folder: str) -> set[tuple[int, int]]:
    """The folder itself and every folder above it: a link to one of them would swallow other classes."""
    real = Path(folder).resolve()
    statuses = [path.stat() for path in (real, *real.parents)]
    return {(status.st_dev, status.st_ino) for status in statuses}


def _links(count: int) -> str:
    links = "1 symbolic link is" if count == 1 else f"{count} symbolic links are"
    return f"{links} skipped; set follow_symlinks to use them"
