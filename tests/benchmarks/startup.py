"""Seconds from starting `tlserve serve` to its first answer, with a published MobileNetV2 model on disk.

    python -m tests.benchmarks startup

A process as users start it; a client asks for a prediction until it gets one. One start more runs under
`-X importtime`, which says where the time of the imports goes (and makes them slower: take its shares).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import grpc
import psutil

from tests.benchmarks.installation import Installation, is_quick
from tests.benchmarks.serving_clients import METHOD, grpc_request, pictures
from tests.benchmarks.shared_models import add_models, name
from tests.flow.daemon_process import free_port

BAR_SECONDS = 1.5
STARTS = 7
MOST_SECONDS = 60.0
HEAVY = ("torch", "torchvision", "onnx", "onnxscript", "sklearn", "scipy", "cleanlab", "pandas", "jinja2")
"""What a daemon has no use for."""


def start_to_answer(here: Installation, *, python: Sequence[str] = ()) -> tuple[float, float, str]:
    """(seconds to the first answer, CPU seconds of them, what it wrote on stderr). It is stopped again."""
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, *python, "-m", "tlserve", "serve", "--grpc", address]
    command += ["--watch", str(here.daemon.watch), "--state", str(here.layout.root)]
    command += ["--backbone", here.daemon.backbone, "--http", f"127.0.0.1:{free_port()}"]
    command += ["--metrics", f"127.0.0.1:{free_port()}"]
    env = {**os.environ, "TLSERVE_STUDY": "false"}
    stderr = here.layout.root.parent / "stderr"
    with stderr.open("wb") as file:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file, env=env)
        try:
            _wait_for_an_answer(process, address)
            seconds = time.perf_counter() - began
            times = psutil.Process(process.pid).cpu_times()
        finally:
            process.terminate()
            process.wait(MOST_SECONDS)
    return seconds, times.user + times.system, stderr.read_text()


def _wait_for_an_answer(process: subprocess.Popen[bytes], address: str) -> None:
    request, deadline = grpc_request(name(0), "pixels", pictures()[0]), time.perf_counter() + MOST_SECONDS
    while process.poll() is None and time.perf_counter() < deadline:
        # A connection of its own each time: one that was refused would pause before it tries again.
        with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            try:
                channel.unary_unary(METHOD)(request, timeout=MOST_SECONDS)
                return
            except grpc.RpcError:
                time.sleep(0.01)
    raise RuntimeError("the daemon did not start")


def import_shares(stderr: str) -> tuple[dict[str, float], set[str]]:
    """From what `-X importtime` wrote: milliseconds by top-level package, and every module's name."""
    spent: Counter[str] = Counter()
    names = set()
    for line in stderr.splitlines():
        columns = line.removeprefix("import time:").split("|")
        if len(columns) == 3 and columns[0].strip().isdigit():
            module = columns[2].strip()
            names.add(module)
            spent[module.partition(".")[0]] += int(columns[0])
    return {package: micros / 1000 for package, micros in spent.most_common()}, names


def run(shared: Path) -> dict[str, float | str]:
    """Needs ../shared."""
    with TemporaryDirectory(prefix="tlserve-bench-") as root, Installation.under(Path(root), shared) as here:
        add_models(here, 1)
        start_to_answer(here)  # the first one finds nothing in the page cache
        starts = [start_to_answer(here) for _ in range(3 if is_quick() else STARTS)]
        _, _, stderr = start_to_answer(here, python=("-X", "importtime"))
    shares, names = import_shares(stderr)
    total = sum(shares.values())
    top = ", ".join(f"{package} {100 * spent / total:.0f} %" for package, spent in list(shares.items())[:12])
    seconds = [one[0] for one in starts]
    return {
        f"start to first answer, median of {len(starts)}, s (at most {BAR_SECONDS})": median(seconds),
        "fastest and slowest, s": f"{min(seconds):.2f}, {max(seconds):.2f}",
        "CPU seconds of it": median(one[1] for one in starts),
        "imports under -X importtime, s": total / 1000,
        "of which": top,
        "heavy modules among them": ", ".join(sorted(names.intersection(HEAVY))) or "none",
    }
