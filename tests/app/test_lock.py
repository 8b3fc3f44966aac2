"""One owner for a state directory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tlserve.app.lock import StateLock
from tlserve.core.errors import StateLocked, StoreUnavailable

HOLD = """
import sys
from pathlib import Path
from tlserve.app.lock import StateLock
with StateLock(Path(sys.argv[1]), holder="tlserve serve"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_another_process_is_refused_naming_the_holder_until_the_holder_dies(tmp_path: Path) -> None:
    path = tmp_path / "state" / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    with holder.stdout, holder.stdin:
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(StateLocked, match=rf"tlserve serve \(process {holder.pid}\)"),
            StateLock(path, holder="test"),
        ):
            pass
        holder.kill()
        holder.wait()
    with StateLock(path, holder="test"):
        pass


def test_a_state_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreUnavailable, match="file"), StateLock(tmp_path / "file" / "lock", holder="test"):
        pass
