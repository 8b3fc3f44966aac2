"""`tlserve serve` as a process: what it says at its start, whom it obeys, and how it refuses."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

FREE = "127.0.0.1:0"


def command(folder: Path, *extra: str) -> list[str]:
    serve = [sys.executable, "-m", "tlserve", "serve", "--watch", str(folder / "watch")]
    return [*serve, "--state", str(folder / "state"), "--http", FREE, "--metrics", FREE, *extra]


def refused(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A daemon whose settings come from a flag, a variable and a file that contradict each other."""
    (tmp_path / "tlserve.toml").write_text(
        'grpc = "from the file"\nhttp = "the file"\nbackbone = "onnx:file.onnx"\n'
    )
    variables = {"TLSERVE_GRPC": FREE, "TLSERVE_HTTP": "the variable"}
    with subprocess.Popen(
        command(tmp_path, "--config", str(tmp_path / "tlserve.toml")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables},
    ) as process:
        yield process
        process.kill()


def banner(process: subprocess.Popen[str]) -> dict[str, str]:
    assert process.stderr is not None
    said = {}
    while "models" not in said:
        line = process.stderr.readline()
        assert line, "it ended before it was up"
        name, _, value = line.strip().partition(" ")
        said[name] = value.strip()
    return said


def test_the_banner_names_what_was_settled_and_sigterm_ends_it_well(
    serving: subprocess.Popen[str], tmp_path: Path
) -> None:
    said = banner(serving)
    assert said["gRPC"].startswith("127.0.0.1:")
    assert not said["gRPC"].endswith(":0")
    assert said["backbone"] == "onnx:file.onnx"
    assert said["watching"] == str(tmp_path / "watch")
    assert said["device"]
    second = refused(command(tmp_path, "--grpc", FREE))
    assert second.returncode == 1
    assert f"in use by tlserve serve (process {serving.pid})" in second.stderr
    assert len(second.stderr.splitlines()) == 1
    serving.send_signal(signal.SIGTERM)
    assert serving.stdout is not None
    assert serving.stdout.read() == ""
    assert serving.wait(40) == 0


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        done = refused(command(tmp_path, "--grpc", taken))
    assert done.returncode == 1
    assert taken in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_settings_file_that_is_not_there_is_wrong_use(tmp_path: Path) -> None:
    assert refused(command(tmp_path, "--config", str(tmp_path / "no.toml"))).returncode == 2
