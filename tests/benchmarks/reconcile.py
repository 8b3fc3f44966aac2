"""How long a reconcile of 100,000 unchanged files takes, and how many it opens (the bar: none).

Run it: python -m tests.benchmarks.reconcile [FILES]
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tlserve.ingest import Catalog, ScanRules, reconcile

N_CLASSES = 100


@dataclass(frozen=True, slots=True)
class Measurement:
    n_files: int
    first_seconds: float
    """Reading, digesting and examining every (tiny) file."""
    unchanged_seconds: float
    unchanged_cpu_seconds: float
    """What an unshared core would have needed."""
    files_opened: int
    """By the second reconcile."""
    one_new_seconds: float
    peak_mb: float
    """Of this process, in the end."""


def measure(n_files: int = 100_000, *, n_classes: int = N_CLASSES) -> Measurement:
    """Lay out tiny pictures in a temporary folder and reconcile them three times."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root, "watch", "flowers")
        for label in range(n_classes):
            (folder / f"class-{label:03}").mkdir(parents=True)
        for number in range(n_files):
            _tiny_picture(folder / f"class-{number % n_classes:03}" / f"{number:07}.ppm", number)
        with Catalog(Path(root, "catalog.sqlite3")) as catalog:
            first_seconds, _ = _timed(catalog, folder)
            cpu_before = time.process_time()
            unchanged_seconds, files_opened = _timed(catalog, folder)
            unchanged_cpu_seconds = time.process_time() - cpu_before
            _tiny_picture(folder / "class-000" / "new.ppm", n_files)
            one_new_seconds, _ = _timed(catalog, folder)
    return Measurement(
        n_files=n_files,
        first_seconds=first_seconds,
        unchanged_seconds=unchanged_seconds,
        unchanged_cpu_seconds=unchanged_cpu_seconds,
        files_opened=files_opened,
        one_new_seconds=one_new_seconds,
        peak_mb=_peak_mb(),
    )


def _timed(catalog: Catalog, folder: Path) -> tuple[float, int]:
    started = time.perf_counter()
    snapshot = reconcile(catalog, "flowers", folder, ScanRules())
    return time.perf_counter() - started, snapshot.files_opened


def _tiny_picture(path: Path, number: int) -> None:
    path.write_bytes(b"P6 2 2 255\n" + number.to_bytes(12, "big"))


def _peak_mb() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(shared: Path) -> dict[str, float]:
    """Figures for `make bench`."""
    found = measure()
    return {
        "100,000 files, first reconcile, s": found.first_seconds,
        "100,000 unchanged files, s": found.unchanged_seconds,
        "100,000 unchanged files, CPU s": found.unchanged_cpu_seconds,
        "files opened among unchanged ones": float(found.files_opened),
        "100,000 files and a new one, s": found.one_new_seconds,
    }


if __name__ == "__main__":
    found = measure(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
    print(
        f"{found.n_files:,} files: first reconcile {found.first_seconds:.1f} s; unchanged"
        f" {found.unchanged_seconds:.2f} s ({found.unchanged_cpu_seconds:.2f} s of CPU),"
        f" {found.files_opened} opened; one new {found.one_new_seconds:.2f} s;"
        f" peak memory {found.peak_mb:.0f} MB"
    )
    sys.exit(found.files_opened != 0)
