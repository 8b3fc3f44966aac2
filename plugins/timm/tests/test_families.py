"""Every family of timm by its smallest network: exported with random weights, ONNX against torch.

Minutes together, so the test runs only when asked for; `python tests/test_families.py [MODULE ...]` prints
the table of docs/plugins.md, a row at a time.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import sys
import tempfile
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

pytest.importorskip("timm", reason="timm is not installed; `make test-timm` runs these tests")
pytest.importorskip("tlserve_timm", reason="tlserve-timm is not installed; `make test-timm` runs these tests")

import timm
import torch
from tlserve_timm import PLUGIN

from tlserve.testing import check_backbone

SAME_WITHIN = 1e-4
"""Of ONNX Runtime against torch, relative to the tap's largest value."""
MOST_PARAMETERS = 100_000_000
LIMIT_SECONDS = 90
"""Of the processor, not of the clock: the machine may be busy."""
QUICK_CHECKS = ("info_is_sound", "image_spec_is_usable", "blocks_cover_parameters")


@dataclass(frozen=True)
class Found:
    """What came of one family."""

    n_parameters: int
    sides: tuple[int, int]
    widths: tuple[int, ...]
    difference: float
    """The largest of all taps, relative."""


@pytest.mark.slow
@pytest.mark.skipif(
    "TLSERVE_SLOW_TESTS" not in os.environ, reason="takes minutes together; set TLSERVE_SLOW_TESTS=1"
)
@pytest.mark.parametrize("module", timm.list_modules())
def test_the_smallest_network_of_each_family_exports_what_torch_computes(module: str) -> None:
    architecture, n_parameters = smallest(module)
    if n_parameters > MOST_PARAMETERS:
        pytest.skip(f"{architecture} has {n_parameters / 1e6:.0f} M parameters")
    tried(architecture)


def smallest(module: str) -> tuple[str, int]:
    """The architecture of a module of timm with the fewest parameters, and how many."""
    return min(
        ((name, _n_parameters(name)) for name in timm.list_models(module=module)), key=lambda one: one[1]
    )


def tried(architecture: str) -> Found:
    """Raises BackboneError, or AssertionError if it breaks a promise or ONNX and torch disagree."""
    backbone = PLUGIN.load(f"{architecture}@random")
    check_backbone(backbone, checks=QUICK_CHECKS)
    image = backbone.info.image
    images = np.random.default_rng(0).normal(size=(3, 3, image.height, image.width)).astype(np.float32)
    with torch.no_grad():
        expected = backbone.torch_module().module(torch.from_numpy(images))
    difference = 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "backbone.onnx"
        backbone.export(path)
        session = _session(path)
        taps = [tap.name for tap in backbone.info.taps]
        for batch in (images, images[:1]):
            for tap, array in zip(taps, session.run(taps, {"input": batch}), strict=True):
                wanted = expected[tap].numpy()[: len(batch)]
                assert array.shape == wanted.shape, f"{tap}: {array.shape} instead of {wanted.shape}"
                difference = max(difference, float(np.abs(array - wanted).max() / np.abs(wanted).max()))
    assert difference <= SAME_WITHIN, f"ONNX and torch differ by {difference:.1e}"
    widths = tuple(tap.width for tap in backbone.info.taps)
    return Found(backbone.info.n_parameters, (image.height, image.width), widths, difference)


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _n_parameters(architecture: str) -> int:
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network: Any = timm.create_model(architecture)
    return sum(parameter.numel() for parameter in network.parameters())


def _row(module: str) -> str:
    architecture, n_parameters = smallest(module)
    begin = f"| {module} | {architecture} | {n_parameters / 1e6:.1f} M |"
    if n_parameters > MOST_PARAMETERS:
        return f"{begin} | | not tried: over 100 M parameters |"
    started = _seconds_of_children()
    result = _apart(architecture)
    seconds = _seconds_of_children() - started
    if isinstance(result, str):
        return f"{begin} | | {result} |"
    sides = "x".join(map(str, dict.fromkeys(result.sides)))
    return (
        f"{begin} {sides} | {', '.join(map(str, result.widths))} | {result.difference:.0e}, {seconds:.0f} s |"
    )


def _apart(architecture: str) -> Found | str:
    """In a process of its own, which may be stopped: some networks take minutes to export."""
    receiving, sending = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_send, args=(architecture, sending))
    process.start()
    sending.close()
    try:
        result: Found | str = receiving.recv()
    except EOFError:
        result = f"given up after {LIMIT_SECONDS} s"
    process.join()
    return result


def _seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _send(architecture: str, sending: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_SECONDS, LIMIT_SECONDS))
    try:
        sending.send(tried(architecture))
    except Exception as exc:
        sending.send(" ".join(f"{type(exc).__name__}: {exc}".split())[:2000])


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    for one in sys.argv[1:] or timm.list_modules():
        print(_row(one), flush=True)  # noqa: T201
