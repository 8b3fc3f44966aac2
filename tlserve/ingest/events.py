"""Watchdog behind one small face: watch a root, tell of changes, say whether it still works.

Two kinds: inotify, and polling where the kernel tells nothing or its limits are used up. What goes
wrong later is for the owner (`watch.FolderWatcher`) to see in `alive()`, and to mend by starting afresh.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from watchdog.events import (
    DirAttribEvent,
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileAttribEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import BaseObserver
from watchdog.observers.polling import PollingObserverVFS

from tlserve.ingest.mounts import silent_mount
from tlserve.ingest.walk import reason_of

Polling = Literal["auto", "always", "never"]

LEAST_POLLING_SECONDS = 1.0
POLLING_SHARE = 0.1
"""Polling may keep one core busy for this share of the time."""

# Not among them: files opened, or closed without writing. Reading is no change, and our own would echo.
_CHANGES: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileModifiedEvent,
    FileAttribEvent,
    FileClosedEvent,
    FileMovedEvent,
    FileDeletedEvent,
    DirCreatedEvent,
    DirAttribEvent,
    DirMovedEvent,
    DirDeletedEvent,
]
log = logging.getLogger(__name__)
_LOG_OF_WATCHDOG = logging.getLogger("watchdog.observers")


class WatchLimit(OSError):
    """The kernel's limits leave part of the tree unwatched."""


@dataclass(frozen=True, slots=True)
class WatchStatus:
    kind: Literal["inotify", "polling", "none"]
    """none: only the periodic reconcile finds changes now."""
    reason: str
    """Why this kind, or what is wrong; empty when there is nothing to say."""
    healthy: bool


@dataclass(frozen=True, slots=True)
class Ears:
    """Both are called from other threads."""

    on_change: Callable[[FileSystemEvent], None]
    on_loss: Callable[[], None]
    """Events were lost: anything may have changed."""


class EventSource:
    """A running observer and everything that belongs to it."""

    def __init__(self, make_observer: Callable[[], BaseObserver], root: str, ears: Ears) -> None:
        """Watch `root` and everything below; raises OSError when the root cannot be watched."""
        # A folder that is moved out and back in still has its watch, which is no harm.
        warnings.filterwarnings("ignore", r"Callback with id '\d+' already exists", RuntimeWarning)
        others = set(threading.enumerate())
        self._observer = observer = make_observer()
        self._losses = _LossHandler(ears.on_loss)
        _LOG_OF_WATCHDOG.addHandler(self._losses)
        try:
            observer.schedule(_Handler(ears.on_change), root, recursive=True, event_filter=_CHANGES)
            observer.start()
        except BaseException:
            self.stop()
            raise
        self._threads = [
            thread
            for thread in threading.enumerate()
            if thread not in others and type(thread).__module__.startswith("watchdog.")
        ]

    def alive(self) -> bool:
        """Whether every thread behind it still runs: reader, emitter and observer."""
        return all(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        _LOG_OF_WATCHDOG.removeHandler(self._losses)
        try:
            self._observer.stop()
        except OSError:
            # Its descriptor or its root is gone; the threads are daemons and end with the process.
            log.warning("a broken folder observer could not be stopped", exc_info=True)
            return
        if self._observer.ident is not None:
            self._observer.join()


def open_source(root: str, polling: Polling, ears: Ears) -> tuple[EventSource | None, WatchStatus]:
    """Watch `root` (absolute, real) the best way there is here, and say which."""
    try:
        if polling == "always":
            return _polling(root, ears), WatchStatus("polling", "as configured", True)
        mount = silent_mount(_mountinfo(), root) if polling == "auto" else None
        if mount is not None:
            reason = f"{mount.folder} is a {mount.kind} filesystem, which tells of no changes"
            return _polling(root, ears), WatchStatus("polling", reason, True)
        try:
            return _inotify(root, ears), WatchStatus("inotify", "", True)
        except WatchLimit as exc:
            if polling == "never":
                return None, WatchStatus("none", str(exc), False)
            return _polling(root, ears), WatchStatus("polling", str(exc), True)
    except OSError as exc:
        return None, WatchStatus("none", f"cannot watch {root}: {reason_of(exc)}", False)


def check_coverage(root: str, *, attempts: int = 3) -> None:
    """Raise WatchLimit when there are more folders than inotify watches in this process.

    Needed because watchdog passes over folders below the root that it could not watch. A folder that
    was made just now is given time to be watched.
    """
    for attempt in range(attempts):
        n_folders = 1 + sum(_n_watchable(path, names) for path, names, _ in os.walk(root))
        n_watches = _n_inotify_watches()
        if n_watches >= n_folders:
            return
        if attempt < attempts - 1:
            time.sleep(0.1)
    raise _limit_reached(f"{n_folders} folders, {n_watches} watches granted")


class _Handler(FileSystemEventHandler):
    def __init__(self, on_change: Callable[[FileSystemEvent], None]) -> None:
        self._on_change = on_change

    def on_any_event(self, event: FileSystemEvent) -> None:
        self._on_change(event)


class _LossHandler(logging.Handler):
    """Watchdog tells of a queue overflow, and of watches it could not rebuild, in its log only."""

    def __init__(self, on_loss: Callable[[], None]) -> None:
        super().__init__(logging.WARNING)
        self._on_loss = on_loss

    def emit(self, record: logging.LogRecord) -> None:
        self._on_loss()


def _inotify(root: str, ears: Ears) -> EventSource:
    # Imported here: the module does not load where the system has no inotify.
    from watchdog.observers.inotify import InotifyObserver

    try:
        source = EventSource(InotifyObserver, root, ears)
    except OSError as exc:
        if not Path(root).is_dir():
            raise
        raise _limit_reached(reason_of(exc)) from exc
    try:
        check_coverage(root)
    except BaseException:
        source.stop()
        raise
    return source


def _limit_reached(detail: str) -> WatchLimit:
    return WatchLimit(
        f"inotify cannot watch every folder ({detail}); to have changes seen at once, raise"
        " fs.inotify.max_user_watches and fs.inotify.max_user_instances"
    )


def _polling(root: str, ears: Ears) -> EventSource:
    started = time.monotonic()
    for folder, _, files in os.walk(root):
        for name in files:
            os.path.lexists(f"{folder}/{name}")
    interval = max(LEAST_POLLING_SECONDS, (time.monotonic() - started) / POLLING_SHARE)
    # lstat: a link that leads back up must not be walked in circles.
    return EventSource(
        lambda: PollingObserverVFS(os.lstat, os.scandir, polling_interval=interval), root, ears
    )


def _mountinfo() -> str:
    try:
        return Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    except OSError:
        return ""


def _n_inotify_watches() -> int:
    count = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            if str(descriptor.readlink()) == "anon_inode:inotify":
                count += Path(f"/proc/self/fdinfo/{descriptor.name}").read_text().count("inotify wd:")
        except OSError:
            continue
    return count


def _n_watchable(path: str, names: list[str]) -> int:
    folders = (Path(path, name) for name in names)
    return sum(not folder.is_symlink() and os.access(folder, os.R_OK) for folder in folders)
