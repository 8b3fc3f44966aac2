"""MLServer and LitServe as processes, each in an environment of its own that is made where it is absent.

TLSERVE_BENCH_RIVALS names a folder to keep the environments in; without it they are made under the system's
temporary folder, and stay there for the next time.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import grpc

from tests.benchmarks.rivals_answers import probabilities
from tests.benchmarks.serving_clients import pictures
from tests.flow.daemon_process import free_port

FILES = Path(__file__).parent / "rivals"
START_SECONDS = 90.0
STOP_SECONDS = 15.0


@dataclass(frozen=True)
class Setting:
    """One way to run a rival. `words` say it in its own terms."""

    words: str
    options: Mapping[str, int | float | bool]


@dataclass(frozen=True)
class Rival:
    """Who is compared, and what is tried to make it fast."""

    name: str
    packages: tuple[str, ...]
    protocol: str
    """As in `serving_clients.Order`."""
    payload: str
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class Running:
    """A rival that answers."""

    rival: Rival
    setting: Setting
    address: str


def _mlserver(workers: int, threads: int, batch: int, wait: float) -> Setting:
    words = f"parallel_workers {workers}, {threads or 'default'} threads, max_batch_size {batch}"
    words += f", max_batch_time {wait}" if batch else ""
    return Setting(words, {"workers": workers, "threads": threads, "batch": batch, "wait": wait})


def _litserve(
    workers: int, threads: int, batch: int, wait: float, *, fast: bool = False, servers: int = 1
) -> Setting:
    words = f"workers_per_device {workers}, {threads or 'default'} threads, max_batch_size {batch}"
    words += f", batch_timeout {wait}, fast_queue {fast}, num_api_servers {servers}"
    options = {"workers": workers, "threads": threads, "max_batch_size": batch, "batch_timeout": wait}
    return Setting(words, {**options, "fast_queue": fast, "api_servers": servers})


MLSERVER_SETTINGS = (
    _mlserver(0, 0, 0, 0.0),
    _mlserver(0, 0, 8, 0.005),
    _mlserver(0, 1, 8, 0.005),
    _mlserver(0, 0, 16, 0.01),
    _mlserver(0, 0, 32, 0.02),
    _mlserver(1, 0, 0, 0.0),
    _mlserver(1, 0, 8, 0.005),
    _mlserver(1, 0, 16, 0.01),
    _mlserver(2, 1, 0, 0.0),
    _mlserver(2, 1, 8, 0.005),
    _mlserver(2, 1, 16, 0.01),
)
LITSERVE_SETTINGS = (
    _litserve(1, 0, 1, 0.0),
    _litserve(1, 0, 8, 0.005),
    _litserve(1, 0, 16, 0.01),
    _litserve(1, 0, 32, 0.02),
    _litserve(1, 0, 16, 0.01, fast=True),
    _litserve(2, 1, 1, 0.0),
    _litserve(2, 1, 8, 0.005),
    _litserve(2, 1, 16, 0.01),
    _litserve(2, 1, 16, 0.01, fast=True),
    _litserve(2, 1, 16, 0.01, servers=2),
    _litserve(2, 1, 16, 0.01, fast=True, servers=2),
)
# From 0.22 on, uvloop gives its workers no event loop (MLServer 1.7.1).
_MLSERVER_PACKAGES = "mlserver", "onnxruntime-gpu", "uvloop<0.22"
MLSERVER = Rival("MLServer", _MLSERVER_PACKAGES, "grpc", "pixels", MLSERVER_SETTINGS)
"""Raw UINT8 tensors, as the protocol has them."""
MLSERVER_BYTES = Rival("MLServer, pixels as BYTES", _MLSERVER_PACKAGES, "grpc", "bytes", MLSERVER_SETTINGS)
"""What its maintainers recommend where the list of numbers is too slow (MLServer's issue 913)."""
LITSERVE = Rival("LitServe", ("litserve", "onnxruntime-gpu"), "http", "pixels", LITSERVE_SETTINGS)


@cache
def environment(packages: tuple[str, ...]) -> Path:
    """The folder of programs of the environment with these packages; made where it is absent."""
    kept = os.environ.get("TLSERVE_BENCH_RIVALS") or Path(tempfile.gettempdir()) / "tlserve-bench-rivals"
    package = packages[0]
    folder = Path(kept) / package
    programs = folder / "bin"
    check = [str(programs / "python"), "-c", f"import {package}, onnxruntime"]
    if (programs / "python").exists() and subprocess.run(
        check, capture_output=True, check=False
    ).returncode == 0:
        return programs
    print(f"  installing {package} into {folder}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(programs / "python"), "-m", "pip", "install", "--quiet", *packages]
    subprocess.run(pip, check=True)
    return programs


def version(rival: Rival) -> str:
    package = rival.packages[0]
    asked = f"import importlib.metadata as m; print(m.version({package!r}), m.version('onnxruntime-gpu'))"
    command = [str(environment(rival.packages) / "python"), "-c", asked]
    own, runtime = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return f"{package} {own}, onnxruntime {runtime}"


@contextlib.contextmanager
def running(rival: Rival, setting: Setting, graph: Path, folder: Path) -> Iterator[Running]:
    """The rival serving `graph` until the end of the block; `folder` for its files and its log."""
    folder.mkdir(parents=True, exist_ok=True)
    if rival.packages[0] == "mlserver":
        command, address = _mlserver_command(rival, setting, graph, folder)
    else:
        command, address = _litserve_command(rival, setting, graph)
    with (folder / "log").open("wb") as log:
        # A session of its own: its workers end with it.
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True)
        try:
            up = Running(rival, setting, address)
            _wait_for(process, up, folder / "log")
            yield up
        finally:
            _end(process)


def _mlserver_command(rival: Rival, setting: Setting, graph: Path, folder: Path) -> tuple[list[str], str]:
    options = setting.options
    port, other_ports = free_port(), {"http_port": free_port(), "metrics_port": free_port()}
    # Access logs and metrics cost time, so they are off.
    server = {"host": "127.0.0.1", "grpc_port": port, "debug": False, "metrics_endpoint": None, **other_ports}
    (folder / "settings.json").write_text(json.dumps({**server, "parallel_workers": options["workers"]}))
    model = {
        "name": "model",
        "implementation": "mlserver_runtime.Classifier",
        "max_batch_size": options["batch"],
        "max_batch_time": options["wait"],
        "parameters": {"uri": str(graph), "extra": {"threads": options["threads"]}},
    }
    (folder / "model-settings.json").write_text(json.dumps(model))
    (folder / "mlserver_runtime.py").write_text((FILES / "mlserver_runtime.py").read_text())
    return [str(environment(rival.packages) / "mlserver"), "start", str(folder)], f"127.0.0.1:{port}"


def _litserve_command(rival: Rival, setting: Setting, graph: Path) -> tuple[list[str], str]:
    port = free_port()
    asked = json.dumps({"port": port, "graph": str(graph), **setting.options})
    return [
        str(environment(rival.packages) / "python"),
        str(FILES / "litserve_app.py"),
        asked,
    ], f"127.0.0.1:{port}"


def _wait_for(process: subprocess.Popen[bytes], up: Running, log: Path) -> None:
    """Until it gave its first answer."""
    deadline = time.monotonic() + START_SECONDS
    rival, told = up.rival, "no answer"
    while process.poll() is None and time.monotonic() < deadline:
        try:
            probabilities(rival.protocol, up.address, "model", rival.payload, pictures()[0])
            return
        except (OSError, grpc.RpcError, RuntimeError, http.client.HTTPException) as exc:
            told = str(exc)
            time.sleep(0.2)
    words = f"{rival.name} ({up.setting.words}) did not start: {told[:500]}"
    raise RuntimeError(f"{words}\n{log.read_text(errors='replace')[-3000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to all of it, and SIGKILL to what is left."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
