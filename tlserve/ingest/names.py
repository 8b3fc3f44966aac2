"""Which names below the watch root mean something: one rule for the walk and for the watcher.

Pure functions of names; nothing here touches the disk.
"""

from __future__ import annotations

from collections.abc import Iterator

from tlserve.core.types import MODEL_NAME

SETTINGS_FILE = "model.toml"

TEMPORARY_SUFFIXES = (
    "~",
    ".part",
    ".partial",
    ".filepart",
    ".crdownload",
    ".opdownload",
    ".download",
    ".tmp",
    ".temp",
    ".swp",
)
LEFT_BY_SYSTEMS = frozenset({"Thumbs.db", "ehthumbs.db", "desktop.ini", "@eaDir", "lost+found"})
"""Files and folders that desktops and storage boxes leave among pictures."""


def is_ignored(name: str) -> bool:
    """Hidden, temporary, or left by a desktop: neither an image nor a reason to look."""
    return (
        name.startswith((".", "~$")) or name.lower().endswith(TEMPORARY_SUFFIXES) or name in LEFT_BY_SYSTEMS
    )


def is_set_aside(name: str) -> bool:
    """A leading underscore, at the level of models or classes: the person's own, for example `_inbox`."""
    return name.startswith("_")


def is_utf8(name: str) -> bool:
    """Whether a name from the disk is valid UTF-8 (Python smuggles other bytes in as surrogates)."""
    if name.isascii():
        return True
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(name: str) -> str:
    """`name` with bytes that are not UTF-8 written as \\xNN: safe in messages, JSON and protobuf."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_inside(path: str) -> bool:
    """Whether a relative path is written as a walk writes it, and is not the folder itself."""
    return not {"", ".", ".."} & set(path.split("/"))


def above(path: str) -> Iterator[str]:
    """The folders that `path` lies in, the outermost first; not the model's own."""
    end = path.find("/")
    while end >= 0:
        yield path[:end]
        end = path.find("/", end + 1)


def label_of(path: str) -> str:
    """The class of an image, from its path relative to the model's folder."""
    return path[: path.index("/")]


def model_touched(relative: str, *, is_directory: bool) -> str | None:
    """The model that a change at `relative` (to the watch root) may concern, or None.

    Of interest are the folder of a model, its `model.toml`, its class folders and everything in them.
    """
    parts = relative.split("/")
    if not MODEL_NAME.fullmatch(parts[0]) or any(not part or is_ignored(part) for part in parts):
        return None
    if len(parts) == 1:
        return parts[0] if is_directory else None
    if is_set_aside(parts[1]):
        return None
    if len(parts) == 2 and not is_directory and parts[1] != SETTINGS_FILE:
        return None
    return parts[0]
