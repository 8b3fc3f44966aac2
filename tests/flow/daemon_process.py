"""A real tlserve in a process of its own, and folders of pictures to drop into it."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
from PIL import Image

DEADLINE_SECONDS = 120.0


def wait_until(condition: Callable[[], bool], what: str, seconds: float = DEADLINE_SECONDS) -> None:
    """Return as soon as `condition` holds; fail naming `what` did not happen."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds:.0f} s: {what}")
        time.sleep(0.02)


def free_port() -> int:
    """A port below those that the system hands out for outgoing connections.

    A client that keeps connecting to a daemon while it restarts could otherwise be given the daemon's own
    port as its side of the connection, and so take it.
    """
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", random.randint(10_000, 30_000)))
            return int(probe.getsockname()[1])


@dataclass
class DaemonProcess:
    """`tlserve serve` over two folders; start, stop and start again as a user would."""

    watch: Path
    state: Path
    backbone: str
    log: Path
    extra: tuple[str, ...] = ()
    env: dict[str, str] | None = None
    study: bool = False
    """Whether it looks for better versions in the background: most tests count versions, and do not ask."""
    port: int = field(default_factory=free_port)
    metrics_port: int = field(default_factory=free_port)
    http_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> DaemonProcess:
        command = [
            sys.executable,
            "-m",
            "tlserve",
            "serve",
            "--watch",
            str(self.watch),
            "--state",
            str(self.state),
        ]
        command += ["--backbone", self.backbone, "--grpc", self.address]
        command += ["--http", f"127.0.0.1:{self.http_port}", "--metrics", f"127.0.0.1:{self.metrics_port}"]
        env = {"TLSERVE_STUDY": str(self.study).lower(), **(os.environ if self.env is None else self.env)}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([*command, *self.extra], stdout=log, stderr=log, env=env)
        wait_until(lambda: self._answers() or self._dead(), "the daemon did not start")
        assert not self._dead(), self.log.read_text()
        return self

    def _answers(self) -> bool:
        with contextlib.suppress(Exception), triton.InferenceServerClient(self.address) as client:
            return bool(client.is_server_ready(client_timeout=1.0))
        return False

    def _dead(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels; 0 before it was ever counted."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        values = (line.rsplit(" ", 1) for line in lines if line.startswith((name + "{", name + " ")))
        return sum(float(value) for _, value in values)

    def http_status(self, path: str) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}") as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code


@contextlib.contextmanager
def running(daemon: DaemonProcess) -> Iterator[DaemonProcess]:
    """Start it, and make sure that it is gone in the end."""
    try:
        yield daemon.start()
    finally:
        daemon.kill()


def copy_images(source: Path, target: Path, start: int, stop: int) -> list[Path]:
    """Copy the files [start:stop] of one class folder, in name order; returns the new paths."""
    target.mkdir(parents=True, exist_ok=True)
    files = sorted(source.iterdir())[start:stop]
    return [Path(shutil.copy2(file, target / file.name)) for file in files]


def draw_shapes(folder: Path, shape: str, count: int, *, seed: int) -> None:
    """Write `count` noisy pictures of a disc, a bar or a frame: easy to tell apart, no two alike."""
    folder.mkdir(parents=True, exist_ok=True)
    dice = np.random.default_rng(seed)
    for index in range(count):
        pixels = dice.integers(0, 90, (72, 96, 3), dtype=np.uint8)
        y, x = np.mgrid[0:72, 0:96]
        cy, cx, r = dice.integers(25, 47), dice.integers(25, 71), dice.integers(12, 22)
        masks = {
            "disc": (y - cy) ** 2 + (x - cx) ** 2 < r**2,
            "bar": np.abs(y - cy) < r // 3,
            "frame": (np.maximum(abs(y - cy), abs(x - cx)) < r)
            & (np.maximum(abs(y - cy), abs(x - cx)) > r - 5),
        }
        pixels[masks[shape]] = dice.integers(150, 255, 3, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{shape}-{seed}-{index}.png")


def ask(
    client: triton.InferenceServerClient, model: str, image: bytes, version: str = ""
) -> triton.InferResult:
    """One encoded image through tritonclient, with labels, classes and probabilities in the answer."""
    tensor = triton.InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([image], dtype=np.object_))
    wanted = [triton.InferRequestedOutput(name) for name in ("label", "probabilities", "classes", "features")]
    return client.infer(model, [tensor], model_version=version, outputs=wanted)


def label_of(result: triton.InferResult) -> str:
    return str(result.as_numpy("label").ravel()[0].decode())


def classes_of(result: triton.InferResult) -> list[str]:
    return [name.decode() for name in result.as_numpy("classes").ravel()]


def version_of(result: triton.InferResult) -> int:
    return int(result.get_response().model_version)
