"""Seconds from the last byte of a dropped file to the first answer by a version that was trained with it.

A real daemon, a real client that asks all the time, flowers on MobileNetV2; settling, judging and writing
everything durably included.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

from tests.flow.daemon_process import DaemonProcess, copy_images, running, wait_until
from tlserve.client import Client

DROPS = 5
IMAGES_PER_DROP = 10
NEW_CLASS_IMAGES = 20


def run(shared: Path) -> dict[str, float]:
    """Needs ../shared; returns medians in seconds."""
    source = shared / "datasets/flowers"
    with tempfile.TemporaryDirectory(prefix="tlserve-bench-") as root:
        folder = Path(root) / "watch" / "flowers"
        for label in ("daisy", "dandelion", "roses", "sunflowers"):
            copy_images(source / label, folder / label, 0, 400)
        backbone = f"onnx:{shared / 'backbones/mobilenet_v2_imagenet.onnx'}"
        daemon = DaemonProcess(Path(root) / "watch", Path(root) / "state", backbone, Path(root) / "log")
        began = time.perf_counter()
        with running(daemon), Client(daemon.address) as client:
            wait_until(lambda: client.model("flowers").ready, "the import went live", 300)
            imported = time.perf_counter() - began
            drops = [_drop(client, source / "daisy", folder / "daisy", 400 + i * 10) for i in range(DROPS)]
            new_class = _new_class(client, source / "tulips", folder / "tulips")
    return {
        "import of 1,600 images, daemon start to live, s": imported,
        f"drop of {IMAGES_PER_DROP} images into 1,600, median of {DROPS}, s": median(drops),
        f"new class of {NEW_CLASS_IMAGES} images, s": new_class,
    }


def _drop(client: Client, source: Path, target: Path, start: int) -> float:
    newest = client.versions("flowers")[-1].version
    for file in sorted(source.iterdir())[start : start + IMAGES_PER_DROP]:
        shutil.copy2(file, target / file.name)
    dropped = time.perf_counter()
    probe = sorted(source.iterdir())[0]
    while True:
        line = client.versions("flowers")[-1]
        if line.version > newest:
            if line.state == "held":
                # Judged worse: the answer to this drop is that decision.
                print(f"  version {line.version} was {line.state}: {line.reason}")
                return time.perf_counter() - dropped
            if client.classify("flowers", [probe])[0].version == line.version:
                return time.perf_counter() - dropped
        time.sleep(0.01)


def _new_class(client: Client, source: Path, target: Path) -> float:
    copy_images(source, target, 0, NEW_CLASS_IMAGES)
    dropped = time.perf_counter()
    probe = sorted(source.iterdir())[0]
    wait_until(
        lambda: "tulips" in dict(client.classify("flowers", [probe], top_k=9)[0].top), "tulips are answered"
    )
    return time.perf_counter() - dropped
