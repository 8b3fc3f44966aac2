"""Where graphs run: the CUDA provider when it really works here, else the CPU, and why.

ONNX Runtime falls back to the CPU without an error when CUDA's libraries are missing, so nothing is
believed before a tiny graph has run on the device.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime as ort

from tlserve.core.errors import SettingsError

Preference = Literal["auto", "cuda", "cpu"]

CUDA_PROVIDER = "CUDAExecutionProvider"
CPU_PROVIDER = "CPUExecutionProvider"

_CUDA_OPTIONS = (
    ("device_id", "0"),
    # The exhaustive default benchmarks every convolution again for each new batch size.
    ("cudnn_conv_algo_search", "HEURISTIC"),
    # Doubling the arena would hold memory that the next loaded backbone needs.
    ("arena_extend_strategy", "kSameAsRequested"),
)

# A whole ONNX model, `y = Conv(x, w)`, all three 4-dimensional float32: the least that needs cuDNN too.
_PROBE_GRAPH = bytes.fromhex(
    "08083a6f0a0f0a01780a01771201792204436f6e76120570726f62655a1b0a017812160a14080112100a0208010a0208"
    "010a0208030a0208035a1b0a017712160a14080112100a0208010a0208010a0208030a020803621b0a017912160a1408"
    "0112100a0208010a0208010a0208010a02080142040a00100d"
)


@dataclass(frozen=True, slots=True)
class Device:
    """One place where sessions run."""

    name: str
    """cpu, or cuda:0"""
    provider: str
    options: tuple[tuple[str, str], ...] = ()
    reason: str = ""
    """Why this one, in words."""

    @property
    def is_cuda(self) -> bool:
        return self.provider == CUDA_PROVIDER

    def describe(self) -> str:
        return f"{self.name} ({self.reason})" if self.reason else self.name

    def provider_list(self) -> list[tuple[str, dict[str, str]]]:
        """As `onnxruntime.InferenceSession` wants it, operators without a CUDA kernel going to the CPU."""
        own = [(self.provider, dict(self.options))]
        return [*own, (CPU_PROVIDER, {})] if self.is_cuda else own


@dataclass(frozen=True, slots=True)
class ProviderReport:
    """What `tlserve doctor` says about this host."""

    onnxruntime: str
    providers: tuple[str, ...]
    """Compiled in, whether or not they work here."""
    cuda_works: bool
    cuda_detail: str
    cores: int


def usable_cores() -> int:
    """Cores this process may use: its affinity, cut by the container's CPU quota; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        allowed = min(allowed, math.ceil(int(quota) / int(period)))
    return max(1, allowed)


def choose_device(preference: Preference = "auto") -> Device:
    """The device for this process. Raises SettingsError when CUDA is demanded and does not work."""
    if preference == "cpu":
        return Device("cpu", CPU_PROVIDER, reason="as the setting asks")
    problem = _cuda_problem()
    if problem is None:
        return Device("cuda:0", CUDA_PROVIDER, _CUDA_OPTIONS, reason="the CUDA provider works")
    if preference == "cuda":
        raise SettingsError(f"the device is set to cuda, but {problem}")
    return Device("cpu", CPU_PROVIDER, reason=problem)


def available_providers() -> ProviderReport:
    """Tries what is there; takes a second or two where CUDA's libraries have to be loaded."""
    problem = _cuda_problem()
    return ProviderReport(
        onnxruntime=ort.__version__,
        providers=tuple(ort.get_available_providers()),
        cuda_works=problem is None,
        cuda_detail=problem or "a graph ran on it",
        cores=usable_cores(),
    )


@cache
def _cuda_problem() -> str | None:
    """Why CUDA cannot be used in this process, or None when it can. Cached: libraries load only once."""
    if CUDA_PROVIDER not in ort.get_available_providers():
        return "this onnxruntime is built without CUDA (onnxruntime-gpu has it)"
    problem = _driver_problem()
    if problem is not None:
        return problem
    with _quiet():
        ort.preload_dlls()
        try:
            probe = ort.InferenceSession(_PROBE_GRAPH, providers=[(CUDA_PROVIDER, dict(_CUDA_OPTIONS))])
            probe.run(None, dict.fromkeys(("x", "w"), np.ones((1, 1, 3, 3), np.float32)))
        except Exception as exc:  # onnxruntime raises a class of its own for each status
            return f"a graph does not run on CUDA: {str(exc).splitlines()[0]}"
    if CUDA_PROVIDER not in probe.get_providers():
        return "onnxruntime's CUDA provider does not load (CUDA or cuDNN libraries missing?)"
    return None


def _driver_problem() -> str | None:
    """A quick look for a driver and a GPU, before hundreds of megabytes of libraries are loaded."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return f"no NVIDIA driver here ({name})"
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return "the NVIDIA driver sees no GPU"
    return None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """While trying, keep onnxruntime's complaints off the terminal; the outcome is told in our words."""
    ort.set_default_logger_severity(4)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        ort.set_default_logger_severity(2)
