"""`tlserve demo`, the way `make run` starts it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flow.daemon_process import wait_until
from tlserve.cli.demo.process import Addresses, DaemonProcess, DemoFailed, choose_addresses


@pytest.mark.slow
def test_the_demo_keeps_its_promises_and_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tlserve", "demo", "--once"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "TLSERVE_PROMOTION": "manual"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=230, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\x1b" not in done.stdout
    right = [float(share) for share in re.findall(r"([\d.]+) % (?:right|of the kept-back)", done.stdout)]
    assert len(right) == 2
    assert min(right) > 85
    assert re.search(r"Version 2 answers [\d.]+ s after the last file", done.stdout)
    assert re.search(r"[\d,]+ requests meanwhile, 0 failed", done.stdout)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_ctrl_c_stops_the_daemon_and_removes_the_files(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tlserve", "demo"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    ) as demo:
        assert demo.stdout is not None
        address = ""
        while not address:
            line = demo.stdout.readline()
            assert line, "the demo ended before its daemon was up"
            if found := re.search(r"gRPC at 127\.0\.0\.1:(\d+)", line):
                address = found[1]
        demo.send_signal(signal.SIGINT)
        demo.stdout.read()
        assert demo.wait(60) == 0
    assert list(tmp_path.iterdir()) == []
    wait_until(lambda: is_closed(int(address)), "the daemon is still there")


def is_closed(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_taken_ports_are_avoided() -> None:
    addresses = choose_addresses(prefer_defaults=False)
    ports = {addresses.grpc, addresses.http, addresses.metrics}
    assert len(ports) == 3
    assert "127.0.0.1:8001" not in ports


def test_a_daemon_that_cannot_start_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    process = DaemonProcess(tmp_path, Addresses("nowhere", "", ""), "nano")
    with pytest.raises(DemoFailed, match="HOST:PORT"), process:
        process.wait()
        process.check_alive()
