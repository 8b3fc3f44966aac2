"""What works here, tried: ONNX Runtime falls back to the CPU without an error when a library is missing.

Nothing is believed before a tiny graph has run on the device.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import onnxruntime as ort

CPU_PROVIDER = "CPUExecutionProvider"
CUDA_PROVIDER = "CUDAExecutionProvider"
TENSORRT_PROVIDER = "TensorrtExecutionProvider"

_GPU_NAME_BYTES = 256
_MISSING_TENSORRT = "install TensorRT"
"""What onnxruntime says, among other things, when it finds no TensorRT."""

# A whole ONNX model, `y = Conv(x, w)`, all three 4-dimensional float32: the least that needs cuDNN too.
_PROBE_GRAPH = bytes.fromhex(
    "08083a6f0a0f0a01780a01771201792204436f6e76120570726f62655a1b0a017812160a14080112100a0208010a0208"
    "010a0208030a0208035a1b0a017712160a14080112100a0208010a0208010a0208030a020803621b0a017912160a1408"
    "0112100a0208010a0208010a0208010a02080142040a00100d"
)


@cache
def cuda_problem(gpu: int) -> str | None:
    """Why this GPU cannot be used in this process, or None when it can. Cached: libraries load only once."""
    problem = all_gpus_problem()
    if problem is not None:
        return problem
    with _quiet():
        ort.preload_dlls()
    return _trial(
        CUDA_PROVIDER, gpu, [], "onnxruntime's CUDA provider does not load (CUDA or cuDNN missing?)"
    )


@cache
def tensorrt_problem(gpu: int) -> str | None:
    """Why TensorRT cannot be used on a GPU that works with CUDA, or None when it can."""
    if TENSORRT_PROVIDER not in ort.get_available_providers():
        return "this onnxruntime is built without TensorRT (onnxruntime-gpu has it)"
    # The libraries of a pip-installed TensorRT lie where only its own package looks for them.
    with contextlib.suppress(Exception):
        importlib.import_module("tensorrt")
    behind = [(CUDA_PROVIDER, {"device_id": str(gpu)})]
    missing = "its libraries are not found (pip install tensorrt, in the version this onnxruntime wants)"
    problem = _trial(TENSORRT_PROVIDER, gpu, behind, missing)
    return missing if problem is not None and _MISSING_TENSORRT in problem else problem


@cache
def all_gpus_problem() -> str | None:
    """A quick look for a driver and a GPU, before hundreds of megabytes of libraries are loaded."""
    if CUDA_PROVIDER not in ort.get_available_providers():
        return "this onnxruntime is built without CUDA (onnxruntime-gpu has it)"
    driver = _driver()
    if driver is None:
        return f"no NVIDIA driver here ({_driver_file()})"
    return None if gpu_count() else "the NVIDIA driver sees no GPU"


def gpu_count() -> int:
    """GPUs that the driver shows to this process (CUDA_VISIBLE_DEVICES hides others)."""
    driver, count = _driver(), ctypes.c_int(0)
    if driver is None or driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def gpu_name(gpu: int) -> str:
    """As its driver calls it; empty where there is none."""
    driver, handle, name = _driver(), ctypes.c_int(0), ctypes.create_string_buffer(_GPU_NAME_BYTES)
    if driver is None or driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(handle), gpu):
        return ""
    if driver.cuDeviceGetName(name, _GPU_NAME_BYTES, handle):
        return ""
    return name.value.decode(errors="replace")


def _trial(provider: str, gpu: int, behind: list[tuple[str, dict[str, str]]], not_loaded: str) -> str | None:
    """Run the tiny graph. `not_loaded`: what to say when the provider is silently left out."""
    providers = [(provider, {"device_id": str(gpu)}), *behind]
    with _quiet():
        try:
            probe = ort.InferenceSession(_PROBE_GRAPH, providers=providers, enable_fallback=0)
            probe.run(None, dict.fromkeys(("x", "w"), np.ones((1, 1, 3, 3), np.float32)))
        except Exception as exc:  # onnxruntime raises a class of its own for each status
            return f"a graph does not run on it: {str(exc).splitlines()[0]}"
    return None if provider in probe.get_providers() else not_loaded


def _driver_file() -> str:
    return "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


@cache
def _driver() -> Any:
    try:
        return ctypes.CDLL(_driver_file())
    except OSError:
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
