"""Where graphs run: the GPUs that really work here, else the CPU, and why."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnxruntime as ort

from tlserve.core.device_choice import DeviceChoice, read_device_choice
from tlserve.core.errors import SettingsError
from tlserve.runtime.probe import (
    CPU_PROVIDER,
    CUDA_PROVIDER,
    all_gpus_problem,
    cuda_problem,
    gpu_count,
    tensorrt_problem,
)

_CUDA_OPTIONS = (
    # The exhaustive default benchmarks every convolution again for each new batch size.
    ("cudnn_conv_algo_search", "HEURISTIC"),
    # Doubling the arena would hold memory that the next loaded backbone needs.
    ("arena_extend_strategy", "kSameAsRequested"),
)


@dataclass(frozen=True, slots=True)
class Device:
    """One place where sessions run."""

    name: str
    """cpu, or cuda:0; torch calls it the same."""
    provider: str
    options: tuple[tuple[str, str], ...] = ()
    reason: str = field(default="", compare=False)
    """Why this one, in words."""
    device_id: int = 0
    """Which GPU; 0 for the CPU."""
    tensorrt: bool = False
    """Whether TensorRT runs what it can of a served graph."""

    @property
    def is_cuda(self) -> bool:
        return self.provider == CUDA_PROVIDER

    def describe(self) -> str:
        return f"{self.name} ({self.reason})" if self.reason else self.name

    def provider_list(self, *, graphs: bool = False) -> list[tuple[str, dict[str, str]]]:
        """As `onnxruntime.InferenceSession` wants it, operators without a CUDA kernel going to the CPU.

        graphs: CUDA graphs may be captured; needs IO binding. TensorRT's own entry is not in it.
        """
        own = dict(self.options) | ({"enable_cuda_graph": "1"} if graphs else {})
        return [(self.provider, own), *([(CPU_PROVIDER, {})] if self.is_cuda else [])]


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


def choose_devices(
    preference: str = "auto", *, tensorrt: bool = False, gpu_memory_mb: int = 0
) -> tuple[Device, ...]:
    """The devices for this process, at least one.

    preference: auto (every GPU that works, else the CPU), cpu, cuda (every GPU that works), or GPUs by
    number: cuda:1 or cuda:0,cuda:1. tensorrt: put TensorRT in front of CUDA. gpu_memory_mb: most memory,
    in MiB, that one open backbone may take on a GPU; 0: no limit.
    Raises SettingsError when what is demanded is not there or does not work.
    """
    try:
        choice = read_device_choice(preference)
    except ValueError as exc:
        raise SettingsError(f"the device {exc}") from exc
    gpus, problem = _gpus(choice)
    if tensorrt:
        _demand_tensorrt(gpus, problem)
    if not gpus:
        return (Device("cpu", CPU_PROVIDER, reason=problem),)
    return tuple(_gpu(gpu, tensorrt=tensorrt, memory_mb=gpu_memory_mb) for gpu in gpus)


def choose_device(preference: str = "auto") -> Device:
    """The first of `choose_devices`, for a process that uses one."""
    return choose_devices(preference)[0]


def available_providers() -> ProviderReport:
    """Tries what is there; takes a second or two where CUDA's libraries have to be loaded."""
    gpus, problem = _gpus(DeviceChoice("auto"))
    return ProviderReport(
        onnxruntime=ort.__version__,
        providers=tuple(ort.get_available_providers()),
        cuda_works=bool(gpus),
        cuda_detail="a graph ran on it" if gpus else problem,
        cores=usable_cores(),
    )


def _gpus(choice: DeviceChoice) -> tuple[Sequence[int], str]:
    """The GPUs to use; when there are none, why not."""
    if choice.kind == "cpu":
        return (), "as the setting asks"
    problem, there = all_gpus_problem(), gpu_count()
    if problem is None:
        for gpu in choice.gpus:
            trouble = cuda_problem(gpu) if gpu < there else f"there is no GPU {gpu}, only {_counted(there)}"
            if trouble is not None:
                raise SettingsError(f"the device is set to cuda:{gpu}, but {trouble}")
        problems = {gpu: cuda_problem(gpu) for gpu in choice.gpus or range(there)}
        working = [gpu for gpu, trouble in problems.items() if trouble is None]
        if working:
            return working, ""
        problem = problems[0]
    if choice.kind == "cuda":
        raise SettingsError(f"the device is set to {_written(choice)}, but {problem}")
    return (), problem or ""


def _demand_tensorrt(gpus: Sequence[int], problem: str) -> None:
    if not gpus:
        raise SettingsError(f"tensorrt is set, but it needs a GPU and the device is the CPU: {problem}")
    for gpu in gpus:
        trouble = tensorrt_problem(gpu)
        if trouble is not None:
            raise SettingsError(f"tensorrt is set, but on cuda:{gpu} {trouble}")


def _gpu(gpu: int, *, tensorrt: bool, memory_mb: int) -> Device:
    limit = (("gpu_mem_limit", str(memory_mb * 2**20)),) if memory_mb else ()
    options = (("device_id", str(gpu)), *_CUDA_OPTIONS, *limit)
    reason = "TensorRT and the CUDA provider work" if tensorrt else "the CUDA provider works"
    return Device(f"cuda:{gpu}", CUDA_PROVIDER, options, reason=reason, device_id=gpu, tensorrt=tensorrt)


def _written(choice: DeviceChoice) -> str:
    return ",".join(f"cuda:{gpu}" for gpu in choice.gpus) or choice.kind


def _counted(there: int) -> str:
    return "cuda:0" if there == 1 else f"cuda:0 to cuda:{there - 1}"
