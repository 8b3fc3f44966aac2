"""Checks of the machine and the installation: Python, libraries, accelerator, formats, inotify."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from tlserve import __version__
from tlserve.cli.doctor.check import Check, fail, ok, warn
from tlserve.core.errors import SettingsError
from tlserve.settings import Settings

OLDEST_PYTHON = (3, 11)
LIBRARIES = (
    "onnxruntime-gpu",
    "onnx",
    "grpcio",
    "protobuf",
    "numpy",
    "pillow",
    "scikit-learn",
    "torch",
    "torchvision",
)
OTHER_NAMES = {"onnxruntime-gpu": "onnxruntime"}
"""The CPU-only package is as good where there is no GPU."""
FEW_WATCHES, FEW_INSTANCES = 8_192, 16
RAISE_LIMITS = "sudo sysctl fs.inotify.max_user_watches=1048576 fs.inotify.max_user_instances=1024"


def check_versions() -> Iterator[Check]:
    """Python and the libraries, by their metadata: nothing heavy is imported."""
    python = f"{platform.python_version()} on {platform.system()} {platform.machine()}, tlserve {__version__}"
    if sys.version_info < OLDEST_PYTHON:
        yield fail("python", python, "install Python 3.11 or newer")
    else:
        yield ok("python", python)
    versions = {name: _version(name) or _version(OTHER_NAMES.get(name, name)) for name in LIBRARIES}
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        yield fail("libraries", f"not installed: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    else:
        yield ok("libraries", ", ".join(f"{name} {version}" for name, version in versions.items()))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def check_image_formats() -> Iterator[Check]:
    """What Pillow was built to decode."""
    from PIL import features

    wanted = {"JPEG": "jpg", "PNG": "zlib", "WebP": "webp", "TIFF": "libtiff", "AVIF": "avif"}
    have = [name for name, feature in wanted.items() if _has(features, feature)]
    lacking = [name for name in wanted if name not in have]
    found = f"{', '.join(have)} (and GIF, BMP, PPM)"
    if {"JPEG", "PNG"} & set(lacking):
        yield fail("image formats", f"Pillow lacks {', '.join(lacking)}", "reinstall pillow")
    elif lacking:
        yield warn(
            "image formats", f"{found}; not {', '.join(lacking)}", "install a Pillow wheel that brings them"
        )
    else:
        yield ok("image formats", found)


def _has(features: object, name: str) -> bool:
    try:
        return bool(features.check(name))  # type: ignore[attr-defined]
    except ValueError:  # a Pillow that does not know the feature's name does not have it
        return False


def check_inotify(proc: Path, watch: Path) -> Iterator[Check]:
    """The kernel's limits against what the watch root needs. `proc` is /proc."""
    limits = proc / "sys/fs/inotify"
    try:
        watches_limit = int((limits / "max_user_watches").read_text())
        instances_limit = int((limits / "max_user_instances").read_text())
    except OSError:
        yield warn("inotify", "this system has no inotify", "folders are polled: changes are noticed later")
        return
    instances, watches = used_by_this_user(proc)
    needed = sum(1 for _ in _folders(watch))
    found = (
        f"{watches_limit - watches:,} of {watches_limit:,} watches free ({needed:,} needed), "
        f"{instances_limit - instances:,} of {instances_limit:,} instances free"
    )
    if watches_limit - watches < needed or instances_limit - instances < 1:
        yield warn("inotify", found, f"folders will be polled; or: {RAISE_LIMITS}")
    elif watches_limit < FEW_WATCHES or instances_limit < FEW_INSTANCES:
        yield warn("inotify", found, f"low limits; raise them: {RAISE_LIMITS}")
    else:
        yield ok("inotify", found)


def used_by_this_user(proc: Path) -> tuple[int, int]:
    """(instances, watches) of inotify in the processes that can be looked into: an estimate from below."""
    instances = watches = 0
    for info in proc.glob("[0-9]*/fdinfo"):
        try:
            if info.stat().st_uid != os.getuid():
                continue
            for descriptor in info.iterdir():
                lines = descriptor.read_text().splitlines()
                found = sum(line.startswith("inotify ") for line in lines)
                watches += found
                instances += found > 0
        except OSError:  # processes and descriptors come and go while we look
            continue
    return instances, watches


def _folders(root: Path) -> Iterator[Path]:
    return (Path(folder) for folder, _, _ in os.walk(root))


def check_accelerator(settings: Settings) -> Iterator[Check]:
    """Which devices would run backbones, and why."""
    from tlserve.runtime import choose_devices, hardware_of

    try:
        devices = choose_devices(
            settings.device, tensorrt=settings.tensorrt, gpu_memory_mb=settings.gpu_memory_mb
        )
    except SettingsError as exc:
        yield fail(
            "device", str(exc), "change the setting, or repair what is missing; tlserve serve needs it"
        )
        return
    for device in devices:
        yield ok("device", f"{device.describe()}: {hardware_of(device)}")
