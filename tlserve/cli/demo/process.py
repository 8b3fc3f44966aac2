"""The demo's daemon: a real `tlserve serve` process, as anyone would start it, with a log file."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tlserve.core.errors import OperatorError

STOP_SECONDS = 30.0
LOG_LINES_SHOWN = 12
KEPT_VARIABLES = ("TLSERVE_DEVICE", "TLSERVE_THREADS")
"""Of the person's settings the demo heeds those about the machine; the others could spoil the show."""


SETTINGS = """\
# One point, the usual bound, is less than three of the demo's held-out digits: chance would decide.
max_drop = 0.05
"""


class DemoFailed(OperatorError):
    """The demo did not see what it promises to show."""


@dataclass(frozen=True, slots=True)
class Addresses:
    grpc: str
    http: str
    metrics: str


DEFAULT_ADDRESSES = Addresses("127.0.0.1:8001", "127.0.0.1:8000", "127.0.0.1:8002")


def choose_addresses(*, prefer_defaults: bool) -> Addresses:
    """The well-known ports where all of them are free, else three free ones."""
    if prefer_defaults and all(_is_free(address) for address in _each(DEFAULT_ADDRESSES)):
        return DEFAULT_ADDRESSES
    # All three stay bound until all are known: closed one by one, they could be the same port.
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    found = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return Addresses(*found)


def _each(addresses: Addresses) -> tuple[str, str, str]:
    return addresses.grpc, addresses.http, addresses.metrics


def _is_free(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_server((host, int(port))).close()
    except OSError:
        return False
    return True


class DaemonProcess:
    """Runs the daemon for the length of a block, and stops it as an init system would: with SIGTERM."""

    def __init__(self, folder: Path, addresses: Addresses, backbone: str) -> None:
        self.watch, self.state = folder / "watch", folder / "state"
        self.addresses = addresses
        self.log = folder / "daemon.log"
        self._settings_file = folder / "tlserve.toml"
        self._backbone = backbone
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        # It also keeps out the tlserve.toml of the folder that the demo was started in.
        self._settings_file.write_text(SETTINGS)
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("TLSERVE_") or name in KEPT_VARIABLES
        }
        with self.log.open("wb") as log:
            # Its own session: Ctrl-C reaches the demo alone, which then stops the daemon in order.
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        code = self.stop()
        if kind is None and code != 0:
            raise DemoFailed(f"the daemon ended with exit code {code}; {self.last_words()}")

    def check_alive(self) -> None:
        """Raises DemoFailed, with the end of the log, when the daemon is gone."""
        if self._process is None or self._process.poll() is not None:
            code = None if self._process is None else self._process.returncode
            raise DemoFailed(f"the daemon stopped with exit code {code}; {self.last_words()}")

    def stop(self) -> int:
        """Stop the daemon and return its exit code; by force when it takes long or on a second Ctrl-C."""
        process = self._process
        if process is None:
            return 0
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            return process.wait(STOP_SECONDS)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            process.kill()
            return process.wait()

    def wait(self) -> int:
        """Until the daemon ends by itself."""
        return self._process.wait() if self._process else 0

    def last_words(self) -> str:
        """The end of its log, for a message."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        shown = "\n  ".join(lines[-LOG_LINES_SHOWN:])
        return f"its log ends with:\n  {shown}" if lines else "its log is empty"

    def _command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "tlserve", "serve"),
            *("--watch", str(self.watch), "--state", str(self.state)),
            *("--grpc", self.addresses.grpc),
            *("--http", self.addresses.http),
            *("--metrics", self.addresses.metrics),
            *("--backbone", self._backbone),
            *("--config", str(self._settings_file)),
        ]
