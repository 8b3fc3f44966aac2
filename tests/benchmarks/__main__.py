"""`make bench`: every figure as a ratio or a duration within one run, one line each.

Name benchmarks to run only these: make bench ARGS="serving drop_to_live".
"""

from __future__ import annotations

import importlib
import os
import platform
import sys
from pathlib import Path

SHARED = Path(__file__).resolve().parents[3] / "shared"
BENCHMARKS = (
    "extraction",
    "serving",
    "rivals",
    "shared_models",
    "startup",
    "drop_to_live",
    "instant",
    "ten_models",
    "first_import",
    "head_swaps",
    "backbone_swaps",
    "while_training",
    "soak",
    "reconcile",
    "nano",
    "heads",
    "mislabelled",
    "augmentation",
    "novelty",
    "finetune",
    "gpu",
)


def main() -> None:
    wanted = sys.argv[1:] or BENCHMARKS
    unknown = set(wanted) - set(BENCHMARKS)
    if unknown:
        sys.exit(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for name in wanted:
        if name != "reconcile" and not SHARED.is_dir():
            print(f"\n{name}: skipped, needs ../shared")
            continue
        print(f"\n{name}", flush=True)
        module = importlib.import_module(f"tests.benchmarks.{name}")
        for what, value in module.run(SHARED).items():
            print(f"  {what}: {value if not isinstance(value, float) else round(value, 3)}", flush=True)


if __name__ == "__main__":
    main()
