"""How long it takes to look at a folder of 100,000 files again, and how many are opened (the bar: none).

Three ways: without a memory, as a trainer that has just started; with one, as the periodic look does; and at
ten touched files, as after a drop. Run it: python -m tests.benchmarks.reconcile [FILES]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from tlserve.core.types import Snapshot
from tlserve.ingest import Catalog, FolderMemory, ScanRules, reconcile

N_CLASSES = 100
N_TOUCHED = 10
TIMES = 5


@dataclass(frozen=True, slots=True)
class Measurement:
    """Medians; of the first look, and of CPU seconds, one figure."""

    n_files: int
    first_seconds: float
    """Reading, digesting and examining every (tiny) file."""
    unchanged_seconds: float
    """Without a memory."""
    unchanged_cpu_seconds: float
    """What an unshared core would have needed."""
    remembered_seconds: float
    """With a memory, everything looked at."""
    files_opened: int
    """By all looks at unchanged files."""
    touched_seconds: float
    """Ten new files, named by their paths."""
    memory_mb: float
    """What a memory of so many files holds."""


@dataclass(slots=True)
class _Folder:
    """Many tiny pictures, and a catalog that knows them."""

    root: Path
    n_classes: int
    catalog: Catalog
    n_pictures: int = 0
    memory: FolderMemory = field(default_factory=FolderMemory)

    def fill(self, n_files: int) -> list[str]:
        """Paths of new pictures, spread over the classes."""
        paths = []
        for _ in range(n_files):
            path = f"class-{self.n_pictures % self.n_classes:03}/{self.n_pictures:07}.ppm"
            file = self.root / "watch" / "flowers" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"P6 2 2 255\n" + self.n_pictures.to_bytes(12, "big"))
            paths.append(path)
            self.n_pictures += 1
        return paths

    def look(
        self, memory: FolderMemory | None, touched: Collection[str] | None = None
    ) -> tuple[float, Snapshot]:
        folder = self.root / "watch" / "flowers"
        started = time.perf_counter()
        snapshot = reconcile(self.catalog, "flowers", folder, ScanRules(), memory=memory, touched=touched)
        return time.perf_counter() - started, snapshot


def measure(n_files: int = 100_000, *, n_classes: int = N_CLASSES, times: int = TIMES) -> Measurement:
    """Lay out tiny pictures in a temporary folder and look at them again and again."""
    with tempfile.TemporaryDirectory() as root, Catalog(Path(root, "catalog.sqlite3")) as catalog:
        folder = _Folder(Path(root), n_classes, catalog)
        folder.fill(n_files)
        first_seconds, _ = folder.look(None)
        cpu_before = time.process_time()
        unchanged = [folder.look(None) for _ in range(times)]
        cpu_seconds = (time.process_time() - cpu_before) / times
        before_mb = _resident_mb()
        folder.look(folder.memory)
        memory_mb = _resident_mb() - before_mb
        remembered = [folder.look(folder.memory) for _ in range(times)]
        touched = [_touch(folder) for _ in range(times)]
    return Measurement(
        n_files=n_files,
        first_seconds=first_seconds,
        unchanged_seconds=statistics.median(seconds for seconds, _ in unchanged),
        unchanged_cpu_seconds=cpu_seconds,
        remembered_seconds=statistics.median(seconds for seconds, _ in remembered),
        files_opened=sum(snapshot.files_opened for _, snapshot in (*unchanged, *remembered)),
        touched_seconds=statistics.median(touched),
        memory_mb=memory_mb,
    )


def _touch(folder: _Folder) -> float:
    n_before = folder.n_pictures
    paths = folder.fill(N_TOUCHED)
    seconds, snapshot = folder.look(folder.memory, paths)
    if len(snapshot.images) != n_before + N_TOUCHED or len(snapshot.added) != N_TOUCHED:
        raise RuntimeError(f"{len(snapshot.images)} images seen instead of {n_before + N_TOUCHED}")
    return seconds


def _resident_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def run(shared: Path) -> dict[str, float]:
    """Figures for `make bench`."""
    found = measure()
    return {
        "100,000 files, first reconcile, s": found.first_seconds,
        "100,000 unchanged files, s": found.unchanged_seconds,
        "100,000 unchanged files, CPU s": found.unchanged_cpu_seconds,
        "100,000 unchanged files with a memory, s": found.remembered_seconds,
        "files opened among unchanged ones": float(found.files_opened),
        "ten touched of 100,000 files, s": found.touched_seconds,
        "a memory of 100,000 files, MB": found.memory_mb,
    }


if __name__ == "__main__":
    found = measure(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
    print(
        f"{found.n_files:,} files: first reconcile {found.first_seconds:.1f} s; unchanged"
        f" {found.unchanged_seconds:.2f} s ({found.unchanged_cpu_seconds:.2f} s of CPU), with a memory"
        f" {found.remembered_seconds:.2f} s, {found.files_opened} opened; ten touched"
        f" {found.touched_seconds * 1000:.0f} ms; the memory holds {found.memory_mb:.0f} MB"
    )
    sys.exit(found.files_opened != 0)
