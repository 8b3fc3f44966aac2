"""What outlives a restart, a kill, a reader beside the writer, and a damaged file."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.benchmarks.reconcile import measure
from tests.ingest.model_folder import Flowers, picture
from tlserve.core.errors import CorruptState, StoreUnavailable
from tlserve.core.types import Snapshot
from tlserve.ingest import Catalog, ScanRules, reconcile

Problems = Callable[[Snapshot, str], dict[str, str]]


def test_a_restart_opens_nothing(flowers: Flowers, seen: Snapshot, tmp_path: Path) -> None:
    flowers.catalog.close()
    with Catalog(tmp_path / "catalog.sqlite3") as catalog:
        again = reconcile(catalog, "flowers", flowers.folder, ScanRules())
    assert again.files_opened == 0
    assert again.images == seen.images


def test_a_moved_watch_root_opens_nothing(flowers: Flowers, seen: Snapshot) -> None:
    moved = flowers.watch.rename(flowers.away("new place")) / "flowers"
    again = reconcile(flowers.catalog, "flowers", moved, ScanRules())
    assert (again.files_opened, again.snapshot_id) == (0, seen.snapshot_id)


KILLED = """
import sys
from pathlib import Path
from tlserve.ingest import Catalog, ScanRules, reconcile
def tell(done, total):
    print(done, flush=True)
with Catalog(Path(sys.argv[1])) as catalog:
    reconcile(catalog, "flowers", Path(sys.argv[2]), ScanRules(), on_progress=tell)
"""


def test_a_killed_reconcile_loses_time_only(flowers: Flowers, tmp_path: Path) -> None:
    flowers.fill("tulips", 330, first_seed=1000)
    state = tmp_path / "catalog.sqlite3"
    command = [sys.executable, "-c", KILLED, str(state), str(flowers.folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as killed:
        assert killed.stdout is not None
        for line in killed.stdout:
            if int(line) >= 300:
                killed.kill()
                break
    assert flowers.catalog.last_snapshot_id("flowers") is None
    assert flowers.catalog.sides("flowers") == {}
    after = flowers.reconcile()
    assert after.files_opened <= 350 - 256
    assert after.counts == {"daisy": 10, "roses": 10, "tulips": 330}


def test_a_file_that_is_being_written_waits_for_the_next_pass(flowers: Flowers, problems: Problems) -> None:
    file = flowers.folder / "daisy/growing.jpg"
    stop = threading.Event()
    started = threading.Event()

    def write() -> None:
        with file.open("wb", buffering=0) as stream:
            stream.write(bytes(32 << 20))
            while not stop.is_set():
                stream.write(b"more")
                started.set()

    writer = threading.Thread(target=write)
    writer.start()
    started.wait()
    during = flowers.reconcile()
    stop.set()
    writer.join()
    assert "still being written" in problems(during, "unreadable")["daisy/growing.jpg"]
    assert during.counts == {"daisy": 10, "roses": 10}
    picture(file, 900)
    assert flowers.reconcile().counts == {"daisy": 11, "roses": 10}


def test_a_file_just_written_is_not_believed_before_the_clock_has_moved_on(flowers: Flowers) -> None:
    file = flowers.folder / "daisy/fast.jpg"
    first, second = (picture(flowers.away(f"{n}.jpg"), 900 + n).read_bytes() for n in (1, 2))
    size = max(len(first), len(second))
    for _ in range(5):
        file.write_bytes(first.ljust(size, b"\0"))
        before = flowers.reconcile()
        file.write_bytes(second.ljust(size, b"\0"))
        assert flowers.reconcile().snapshot_id != before.snapshot_id


def test_a_reader_sees_what_the_writer_committed(flowers: Flowers, seen: Snapshot, tmp_path: Path) -> None:
    with Catalog(tmp_path / "catalog.sqlite3", read_only=True) as reader:
        assert reader.last_snapshot_id("flowers") == seen.snapshot_id
        picture(flowers.folder / "daisy/new.jpg", 500)
        newer = flowers.reconcile()
        assert reader.last_snapshot_id("flowers") == newer.snapshot_id
        with pytest.raises(StoreUnavailable):
            reader.job_started("1", "flowers")


def test_jobs_that_never_ended_are_found_again(flowers: Flowers) -> None:
    catalog = flowers.catalog
    catalog.job_started("a", "flowers", "first")
    catalog.job_started("b", "flowers")
    catalog.job_started("a", "flowers", "again")
    catalog.job_ended("b", "published", "version 3")
    assert [(job.job_id, job.model, job.detail) for job in catalog.unfinished_jobs()] == [
        ("a", "flowers", "again")
    ]
    catalog.job_ended("a", "failed", "no reason")
    assert catalog.unfinished_jobs() == []


def test_the_same_snapshot_is_recorded_once(flowers: Flowers, seen: Snapshot) -> None:
    flowers.catalog.record_snapshot(seen)
    assert flowers.catalog.last_snapshot_id("flowers") == seen.snapshot_id
    assert flowers.catalog.last_snapshot_id("trees") is None


def test_a_damaged_catalog_says_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "catalog.sqlite3"
    file.write_bytes(b"this is not a database, whatever it is called" * 100)
    with pytest.raises(CorruptState, match="backup"):
        Catalog(file)


def test_a_catalog_in_a_folder_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        Catalog(tmp_path / "no" / "catalog.sqlite3")
    with pytest.raises(StoreUnavailable):
        Catalog(tmp_path / "none.sqlite3", read_only=True)


@pytest.mark.usefixtures("permissions_hold")
def test_what_cannot_be_listed_is_kept_not_deleted(
    flowers: Flowers, seen: Snapshot, problems: Problems
) -> None:
    for folder in (flowers.folder / "daisy", flowers.folder):
        folder.chmod(0)
        try:
            blind = flowers.reconcile()
        finally:
            folder.chmod(0o755)
        assert blind.snapshot_id == seen.snapshot_id
        assert blind.files_opened == 0
        assert len(problems(blind, "unreadable")) == 1
    assert flowers.reconcile().problems == ()


def test_thousands_of_unchanged_files_open_none() -> None:
    assert measure(1000, n_classes=10).files_opened == 0


def test_only_the_latest_jobs_are_kept(tmp_path: Path) -> None:
    with Catalog(tmp_path / "catalog.sqlite3") as catalog:
        for number in range(1_100):
            catalog.job_started(f"job{number}", "flowers")
            if number:
                catalog.job_ended(f"job{number}", "unchanged")
    with sqlite3.connect(tmp_path / "catalog.sqlite3") as database:
        kept = [job_id for (job_id,) in database.execute("SELECT job_id FROM jobs ORDER BY rowid")]
    database.close()
    assert kept[0] == "job0"  # it never ended
    assert len(kept) in (1_000, 1_001)
    assert kept[-1] == "job1099"
