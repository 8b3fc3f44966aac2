"""A real watchdog observer on real folders: what is noticed, what is not, what is survived."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from watchdog.utils import BaseThread

from tests.ingest.model_folder import picture
from tlserve.ingest import FolderWatcher

SETTLE_SECONDS = 0.2
DEADLINE_SECONDS = 15.0
STILL_SECONDS = 1.0
"""Long enough for a wrong hint to settle."""


Touched = frozenset[str] | None


class Told:
    """What a watcher said, for other threads to wait for."""

    def __init__(self) -> None:
        self.ready: list[tuple[str, float, Touched]] = []
        self.hints: list[str] = []
        self._news = threading.Condition()

    def on_ready(self, model: str, noticed_at: float, touched: Touched) -> None:
        with self._news:
            self.ready.append((model, noticed_at, touched))
            self._news.notify_all()

    def on_hint(self, model: str) -> None:
        with self._news:
            self.hints.append(model)
            self._news.notify_all()

    def wait(self, done: Callable[[], bool]) -> None:
        with self._news:
            assert self._news.wait_for(done, DEADLINE_SECONDS), f"only {self.ready} in {DEADLINE_SECONDS} s"

    def touched(self) -> set[str]:
        """All that was named so far."""
        return {path for _, _, touched in self.ready for path in touched or ()}

    def wait_for(self, *models: str) -> None:
        self.wait(lambda: set(models) <= {model for model, *_ in self.ready})
        self.ready.clear()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for model in ("flowers", "trees"):
        picture(tmp_path / "watch" / model / "some class" / "1.jpg", 1)
    return tmp_path / "watch"


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def watching(root: Path, told: Told) -> Iterator[Callable[..., FolderWatcher]]:
    started: list[FolderWatcher] = []

    def start(watch: Path = root, **settings: Any) -> FolderWatcher:
        watcher = FolderWatcher(
            watch,
            told.on_ready,
            on_hint=told.on_hint,
            **{"settle_seconds": SETTLE_SECONDS, "max_wait_seconds": 2.0, **settings},
        )
        started.append(watcher)
        watcher.start()
        return watcher

    yield start
    for watcher in started:
        watcher.stop()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def put_new(root: Path) -> None:
    picture(root / "flowers/daisy/2.jpg", 2)


def put_loose(root: Path) -> None:
    picture(root / "flowers/some class/2.jpg", 2)


def rename_class(root: Path) -> None:
    (root / "flowers/some class").rename(root / "flowers/another")


def delete_class(root: Path) -> None:
    shutil.rmtree(root / "flowers/some class")


def move_class_in(root: Path) -> None:
    picture(root.parent / "outside/deep/1.jpg", 3)
    (root.parent / "outside").rename(root / "flowers/tulips")


def move_class_out(root: Path) -> None:
    (root / "flowers/some class").rename(root.parent / "outside")


def move_model_in(root: Path) -> None:
    (root / "flowers").rename(root.parent / "outside")
    (root.parent / "outside").rename(root / "flowers")


def finish_download(root: Path) -> None:
    picture(root / "flowers/some class/2.jpg.part", 2).rename(root / "flowers/some class/2.jpg")


def delete_file(root: Path) -> None:
    (root / "flowers/some class/1.jpg").unlink()


def write_settings(root: Path) -> None:
    (root / "flowers/model.toml").write_text("promotion = 'manual'")


def allow_reading(root: Path) -> None:
    (root / "flowers/some class/1.jpg").chmod(0o600)


TOUCHED: dict[Callable[[Path], None], set[str]] = {
    put_new: {"daisy"},
    put_loose: {"some class/2.jpg"},
    rename_class: {"some class", "another"},
    delete_class: {"some class"},
    move_class_in: {"tulips"},
    move_class_out: {"some class"},
    move_model_in: set(),
    finish_download: {"some class/2.jpg"},
    delete_file: {"some class/1.jpg"},
    write_settings: set(),
    allow_reading: {"some class/1.jpg"},
}
"""What each change touches at least, and nothing but that and what is in it; nothing: it may be anything."""


@pytest.mark.parametrize("polling", ["never", "always"])
@pytest.mark.parametrize("change", TOUCHED)
def test_a_change_of_a_model_is_noticed(
    change: Callable[[Path], None],
    polling: str,
    root: Path,
    told: Told,
    watching: Callable[..., FolderWatcher],
) -> None:
    if polling == "always" and change is move_model_in:
        pytest.skip("polling may look only after both moves")
    watching(polling=polling)
    before = time.time()
    change(root)
    told.wait(lambda: bool(told.ready))
    assert {model for model, *_ in told.ready} == {"flowers"}
    assert before - 1 <= told.ready[0][1] <= time.time()
    if polling == "always" or not TOUCHED[change]:
        assert told.ready[0][2] is None
    else:
        told.wait(lambda: told.touched() >= TOUCHED[change])
        assert all(any(path.startswith(of) for of in TOUCHED[change]) for path in told.touched())
    assert told.hints[0] == "flowers"


def test_what_was_moved_in_is_watched_from_then_on(
    root: Path, told: Told, watching: Callable[..., FolderWatcher]
) -> None:
    watching()
    picture(root.parent / "outside/some class/1.jpg", 3)
    (root.parent / "outside").rename(root / "birds")
    told.wait_for("birds")
    picture(root / "birds/some class/2.jpg", 4)
    told.wait_for("birds")
    (root / "birds").rename(root / "planes")
    told.wait_for("birds", "planes")
    picture(root / "planes/some class/3.jpg", 5)
    told.wait_for("planes")


def test_reading_hidden_temporary_and_set_aside_names_say_nothing(
    root: Path, told: Told, watching: Callable[..., FolderWatcher]
) -> None:
    watching()
    (root / "flowers/some class/1.jpg").read_bytes()
    list((root / "flowers").rglob("*"))
    picture(root / "flowers/some class/.hidden.jpg", 2)
    picture(root / "flowers/some class/2.jpg.part", 2)
    picture(root / "flowers/_inbox/2.jpg", 2)
    picture(root / ".git/daisy/2.jpg", 2)
    picture(root / "no model/daisy/2.jpg", 2)
    (root / "README.md").write_text("hello")
    picture(root / "trees/some class/2.jpg", 2)
    told.wait_for("trees")
    time.sleep(STILL_SECONDS)
    assert told.ready == []
    assert told.hints == ["trees"]


def test_steady_drops_do_not_starve(root: Path, told: Told, watching: Callable[..., FolderWatcher]) -> None:
    watching(settle_seconds=1.0, max_wait_seconds=1.5)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not told.ready and time.monotonic() < deadline:
        picture(root / "flowers/some class/2.jpg", 2)
        time.sleep(0.05)
    assert told.ready


def test_one_drop_of_many_files_is_one_change(
    root: Path, told: Told, watching: Callable[..., FolderWatcher]
) -> None:
    watching(settle_seconds=1.0, max_wait_seconds=10.0)
    for number in range(200):
        picture(root / f"flowers/some class/new {number}.jpg", number)
    told.wait_for("flowers")
    time.sleep(STILL_SECONDS)
    assert told.ready == []


def test_no_callback_comes_after_stop(root: Path, told: Told, watching: Callable[..., FolderWatcher]) -> None:
    watcher = watching()
    put_new(root)
    told.wait(lambda: bool(told.hints))
    watcher.stop()
    told.ready.clear()
    picture(root / "trees/some class/2.jpg", 2)
    time.sleep(STILL_SECONDS)
    assert told.ready == []
    assert not watcher.status.healthy
    watcher.stop()


def test_a_callback_may_stop_the_watcher_and_may_fail(root: Path, told: Told) -> None:
    def stop(model: str, noticed_at: float, touched: Touched) -> None:
        watcher.stop()
        told.on_ready(model, noticed_at, touched)
        raise RuntimeError("on purpose")

    watcher = FolderWatcher(root, stop, settle_seconds=SETTLE_SECONDS)
    watcher.start()
    put_new(root)
    picture(root / "trees/some class/2.jpg", 2)
    told.wait(lambda: bool(told.ready))
    wait_until(lambda: watcher.status.reason == "stopped")
    assert len(told.ready) == 1


def test_a_failing_callback_does_not_end_the_watch(root: Path, told: Told) -> None:
    def fail(model: str, noticed_at: float, touched: Touched) -> None:
        told.on_ready(model, noticed_at, touched)
        raise RuntimeError("on purpose")

    watcher = FolderWatcher(root, fail, settle_seconds=SETTLE_SECONDS)
    watcher.start()
    put_new(root)
    told.wait_for("flowers")
    put_loose(root)
    told.wait_for("flowers")
    watcher.stop()


@pytest.mark.parametrize("polling", ["never", "always"])
def test_a_root_that_goes_and_comes_back_is_watched_again(
    polling: str, root: Path, told: Told, watching: Callable[..., FolderWatcher]
) -> None:
    watcher = watching(polling=polling)
    root.rename(root.parent / "away")
    told.wait_for("flowers", "trees")
    wait_until(lambda: watcher.status.kind == "none" and not watcher.status.healthy)
    (root.parent / "away").rename(root)
    told.wait_for("flowers", "trees")
    wait_until(lambda: watcher.status.healthy)
    put_loose(root)
    told.wait_for("flowers")


def test_a_deleted_root_is_survived(root: Path, told: Told, watching: Callable[..., FolderWatcher]) -> None:
    watcher = watching()
    shutil.rmtree(root)
    told.wait_for("flowers", "trees")
    wait_until(lambda: watcher.status.kind == "none")
    picture(root / "flowers/daisy/1.jpg", 1)
    told.wait_for("flowers")
    wait_until(lambda: watcher.status.healthy)
    put_loose(root)
    told.wait_for("flowers")


def test_a_root_may_come_late(root: Path, told: Told, watching: Callable[..., FolderWatcher]) -> None:
    root.rename(root.parent / "away")
    watcher = watching()
    assert "not there" in watcher.status.reason
    (root.parent / "away").rename(root)
    told.wait_for("flowers", "trees")
    assert watcher.status.kind == "inotify"


def test_a_linked_root_is_looked_through(
    root: Path, told: Told, watching: Callable[..., FolderWatcher]
) -> None:
    link = root.parent / "link"
    link.symlink_to(root)
    watching(link)
    put_loose(root)
    told.wait_for("flowers")


@pytest.mark.parametrize("kind", ["InotifyFD", "InotifyEmitter", "InotifyObserver"])
def test_a_dead_observer_thread_is_replaced(
    kind: str, root: Path, told: Told, watching: Callable[..., FolderWatcher]
) -> None:
    watcher = watching()
    victims = [thread for thread in threading.enumerate() if type(thread).__name__ == kind]
    assert victims
    for thread in victims:
        cast(BaseThread, thread).stop()
    told.wait_for("flowers", "trees")
    assert watcher.status.healthy
    put_loose(root)
    told.wait_for("flowers")


def test_lost_events_hint_at_every_model(
    root: Path, told: Told, watching: Callable[..., FolderWatcher]
) -> None:
    watching()
    # This is how watchdog tells that the kernel's queue overflowed: in its log, and nowhere else.
    logging.getLogger("watchdog.observers.inotify_c").warning("Inotify queue overflowed")
    told.wait(lambda: {model for model, *_ in told.ready} == {"flowers", "trees"})
    assert [touched for *_, touched in told.ready] == [None, None]


def test_what_changes_after_a_hint_belongs_to_the_next(
    root: Path, told: Told, watching: Callable[..., FolderWatcher]
) -> None:
    watching()
    put_loose(root)
    told.wait(lambda: told.touched() == {"some class/2.jpg"})
    told.ready.clear()
    delete_file(root)
    told.wait(lambda: told.touched() == {"some class/1.jpg"})


def test_a_file_moved_between_models_touches_both(
    root: Path, told: Told, watching: Callable[..., FolderWatcher]
) -> None:
    watching()
    (root / "flowers/some class/1.jpg").rename(root / "trees/some class/3.jpg")
    told.wait(lambda: len(told.ready) == 2)
    assert {model: touched for model, _, touched in told.ready} == {
        "flowers": {"some class/1.jpg"},
        "trees": {"some class/3.jpg"},
    }


def test_names_that_are_not_utf8_are_not_passed_on(
    root: Path, told: Told, watching: Callable[..., FolderWatcher]
) -> None:
    watching()
    picture(root / "flowers/some class" / os.fsdecode(b"\xff.jpg"), 2)
    told.wait(lambda: bool(told.ready))
    assert told.ready[0][2] is None


def test_closed_files_are_not_waited_for_long(
    root: Path, told: Told, watching: Callable[..., FolderWatcher]
) -> None:
    watching(settle_seconds=5.0, max_wait_seconds=60.0)
    began = time.monotonic()
    put_loose(root)
    told.wait_for("flowers")
    assert time.monotonic() - began < 2.5
    with (root / "flowers/some class/open.jpg").open("wb") as stream:
        stream.write(b"x")
        stream.flush()
        time.sleep(STILL_SECONDS)
        assert told.ready == []


def test_the_kind_is_told_with_its_reason(root: Path, watching: Callable[..., FolderWatcher]) -> None:
    assert watching().status.kind == "inotify"
    configured = watching(polling="always").status
    assert (configured.kind, configured.healthy) == ("polling", True)
    assert configured.reason


LIMITED = """
import sys, time
from pathlib import Path
Path("/proc/sys/user/" + sys.argv[2]).write_text(sys.argv[3])
from tlserve.ingest import FolderWatcher
told = []
root = Path(sys.argv[1])
note = lambda model, noticed_at, touched: told.append(model)
watcher = FolderWatcher(root, note, settle_seconds=0.2, polling=sys.argv[4])
watcher.start()
print(watcher.status.kind, watcher.status.healthy, watcher.status.reason)
if watcher.status.kind == "polling":
    (root / "flowers/some class/2.jpg").write_bytes(b"x")
    deadline = time.monotonic() + 15
    while not told and time.monotonic() < deadline:
        time.sleep(0.05)
    print(told)
watcher.stop()
"""


@pytest.mark.parametrize("limit", [("max_inotify_watches", "2"), ("max_inotify_instances", "0")])
@pytest.mark.parametrize("polling", ["auto", "never"])
def test_used_up_inotify_limits_lead_to_polling(root: Path, limit: tuple[str, str], polling: str) -> None:
    """In a user namespace of its own, where the kernel's limits are ours to lower."""
    unshare = shutil.which("unshare")
    alone = [unshare or "unshare", "--user", "--map-root-user"]
    if unshare is None or subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs unshare and leave to make a user namespace")
    command = [*alone, sys.executable, "-c", LIMITED, str(root), *limit, polling]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    if polling == "auto":
        assert done.stdout.startswith("polling True inotify cannot watch every folder")
        assert "['flowers']" in done.stdout
    else:
        assert done.stdout.startswith("none False inotify cannot watch every folder")
