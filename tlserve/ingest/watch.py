"""The daemon's eye on the watch root: which model may have changed, once it is quiet.

What comes from here are hints; a hint too many costs a reconcile that opens nothing, and a hint lost is
made good by the periodic reconcile. So everything that may have lost events (a queue overflow, a dead
thread, a root that went and came back) simply hints at every model.

Changes behind symbolic links are not seen here, whatever `follow_symlinks` says: links can form
circles that no observer survives. The periodic reconcile finds them.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from watchdog.events import FileSystemEvent

from tlserve.ingest.events import (
    Ears,
    EventSource,
    Polling,
    WatchLimit,
    WatchStatus,
    check_coverage,
    open_source,
)
from tlserve.ingest.models import model_folders
from tlserve.ingest.names import SETTINGS_FILE, is_utf8, model_touched
from tlserve.ingest.settle import Settled, SettleTimer

CHECK_SECONDS = 1.0
"""How often the root and the observer's threads are looked after."""
RETRY_SECONDS = 30.0
"""How often watching is tried again where the root is there but cannot be watched, and how often the
number of watches is compared with the number of folders."""
START_SECONDS = 10.0
"""How long start() waits for the tree to be watched; a larger tree goes on being armed behind it."""

log = logging.getLogger(__name__)


class FolderWatcher:
    """Calls `on_ready(model, noticed_at, touched)` when a model may have changed and has settled.

    noticed_at: Unix time of the first change. touched: the files and folders that changed, relative to
    the model's folder, verbatim; a folder stands for all it holds, and of what was moved both places are
    named. None: anything may have changed. A model whose folder is new, gone or moved counts as changed,
    and so does one whose `model.toml` is. Models that exist at start() are not announced.
    All callbacks come from one thread of the watcher; none comes after stop() has returned.
    """

    def __init__(
        self,
        watch: Path,
        on_ready: Callable[[str, float, frozenset[str] | None], None],
        *,
        settle_seconds: float = 0.5,
        max_wait_seconds: float = 10.0,
        polling: Polling = "auto",
        clock: Callable[[], float] = time.monotonic,
        on_hint: Callable[[str], None] | None = None,
    ) -> None:
        """on_hint(model): told once, when a quiet model begins to change."""
        self._watch, self._polling, self._clock = watch, polling, clock
        self._on_ready, self._on_hint = on_ready, on_hint or (lambda model: None)
        self._wake = threading.Condition()
        # Guarded by _wake.
        self._timer = SettleTimer(
            settle_seconds=settle_seconds,
            max_wait_seconds=max_wait_seconds,
            clock=clock,
            wall_clock=time.time,
        )
        self._stopping = self._lost = self._folders_changed = False
        self._hinted: list[str] = []
        self._sleeps_until = 0.0
        self._status = WatchStatus("none", "not started", False)
        # Of the watcher's own thread only (the observer's threads read the root while it is watched).
        self._source: EventSource | None = None
        self._identity: tuple[str, int, int] | None = None
        self._prefix = ""
        self._models: set[str] = set()
        self._retry_at = 0.0
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="folder-watcher", daemon=True)

    def start(self) -> None:
        """Begin to watch; returns when changes are seen (or could not be: see `status`)."""
        self._thread.start()
        self._started.wait(START_SECONDS)

    def stop(self) -> None:
        """Stop watching. From within a callback: returns at once, and no further callback follows."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        if self._thread.ident is not None and threading.current_thread() is not self._thread:
            self._thread.join()

    @property
    def status(self) -> WatchStatus:
        with self._wake:
            return self._status

    # -- the watcher's thread ---------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._identity = self._find_root()
            self._watch_afresh()
            self._models = self._present_models()
            self._started.set()
            next_check = self._clock() + CHECK_SECONDS
            while not self._stopping:
                hinted, ready = self._wait(next_check)
                for model in hinted:
                    self._tell(partial(self._on_hint, model))
                for settled in ready:
                    self._models.add(settled.model)
                    self._tell(partial(self._on_ready, *settled))
                if self._clock() >= next_check:
                    try:
                        self._look_after()
                    except Exception as exc:
                        log.exception("the folder watcher could not mend itself; it will try again")
                        self._drop_source()
                        self._report(WatchStatus("none", f"unexpected: {exc!r}", False))
                    next_check = self._clock() + CHECK_SECONDS
        finally:
            self._started.set()
            self._drop_source()
            self._report(WatchStatus("none", "stopped", False))

    def _wait(self, until: float) -> tuple[list[str], list[Settled]]:
        """Sleep until something is to be told, at most until the next check."""
        with self._wake:
            if not self._stopping and not self._hinted:
                now = self._clock()
                settled_in = self._timer.seconds_left()
                self._sleeps_until = until if settled_in is None else min(until, now + settled_in)
                self._wake.wait(max(0.0, self._sleeps_until - now))
            hinted, self._hinted = self._hinted, []
            return hinted, self._timer.take_ready()

    def _tell(self, callback: Callable[[], None]) -> None:
        if self._stopping:
            return
        try:
            callback()
        except Exception:
            log.exception("a callback of the folder watcher failed; watching goes on")

    def _look_after(self) -> None:
        """Mend what broke: the root replaced, an observer's thread dead, events lost, limits reached."""
        with self._wake:
            lost, self._lost = self._lost, False
        identity = self._find_root()
        if identity != self._identity:
            self._identity = identity
            self._watch_afresh()
            lost = True
        elif identity is not None and self._is_broken():
            self._watch_afresh()
            lost = True
        if lost:
            self._hint_all()

    def _is_broken(self) -> bool:
        if self._source is not None and not self._source.alive():
            return True
        if self._clock() < self._retry_at:
            return False
        self._retry_at = self._clock() + RETRY_SECONDS
        if self._source is None:
            return True
        with self._wake:
            folders_changed, self._folders_changed = self._folders_changed, False
        if not folders_changed or self.status.kind != "inotify":
            return False
        try:
            check_coverage(self._prefix)
        except WatchLimit:
            return True
        return False

    def _find_root(self) -> tuple[str, int, int] | None:
        """The real root and its identity; None while it is not there. A link is looked through."""
        try:
            root = self._watch.resolve(strict=True)
            status = root.stat()
            return (str(root), status.st_dev, status.st_ino) if root.is_dir() else None
        except (OSError, RuntimeError):  # RuntimeError: a circle of links
            return None

    def _watch_afresh(self) -> None:
        self._drop_source()
        self._retry_at = self._clock() + RETRY_SECONDS
        if self._identity is None:
            self._report(WatchStatus("none", f"{self._watch} is not there; waiting for it", False))
            return
        root = self._identity[0]
        self._prefix = root.rstrip("/") + "/"
        self._source, status = open_source(root, self._polling, Ears(self._changed, self._events_lost))
        self._report(status)

    def _drop_source(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            source.stop()

    def _report(self, status: WatchStatus) -> None:
        with self._wake:
            changed, self._status = status != self._status, status
        if changed and status.reason and not self._stopping:
            log.log(
                logging.INFO if status.healthy else logging.WARNING,
                "watching: %s (%s)",
                status.kind,
                status.reason,
            )

    def _present_models(self) -> set[str]:
        return set(model_folders(self._watch, follow_symlinks=True)[0])

    def _hint_all(self) -> None:
        present = self._present_models()
        with self._wake:
            for model in sorted(present | self._models):
                self._note(model)
        self._models = present

    # -- the observer's threads -------------------------------------------------------------------

    def _events_lost(self) -> None:
        with self._wake:
            self._lost = True

    def _changed(self, event: FileSystemEvent) -> None:
        paths = [event.src_path, event.dest_path] if event.event_type == "moved" else [event.src_path]
        growing = _growing(event)
        with self._wake:
            self._folders_changed |= event.is_directory
            for path in map(os.fsdecode, paths):
                relative = path.removeprefix(self._prefix)
                model = model_touched(relative, is_directory=event.is_directory)
                if model is not None:
                    self._note(model, self._sure_of(relative.partition("/")[2]), growing=growing)

    def _sure_of(self, path: str) -> str | None:
        """`path`, if a change there says that nothing else of its model changed with it; or None.

        Polling cannot say so: it compares what it saw a second apart.
        """
        certain = path not in ("", SETTINGS_FILE) and is_utf8(path) and self._status.kind == "inotify"
        return path if certain else None

    def _note(self, model: str, path: str | None = None, *, growing: bool | None = None) -> None:
        if self._timer.changed(model, path, growing=growing):
            self._hinted.append(model)
            self._wake.notify_all()
        elif growing is False and self._clock() + (self._timer.seconds_left() or 0.0) < self._sleeps_until:
            # A closed file may bring the end of the wait forward.
            self._wake.notify_all()


def _growing(event: FileSystemEvent) -> bool | None:
    """True for a file that may still be written, False for one complete or gone; None: not a word on that."""
    if event.is_directory or event.event_type == "attrib":
        return None
    return event.event_type in ("created", "modified") and not event.is_synthetic
