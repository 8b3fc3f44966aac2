"""What importing tlserve does, and does not, to a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_onnxruntime_is_told_to_report_nothing_before_it_loads(tmp_path: Path) -> None:
    code = "import tlserve.runtime, onnxruntime, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"} | {
        "TMPDIR": str(tmp_path)
    }
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert said.stdout.strip() == "1"
    # Where it does report, it leaves a session file here.
    assert list(tmp_path.iterdir()) == []
