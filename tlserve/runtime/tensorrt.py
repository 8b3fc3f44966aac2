"""How a build runs in TensorRT: engines lie beside the graph, and numbers are no coarser than the build's.

The build's digest does not change: whether TensorRT gives the features that heads were trained on, the check
of the reference rows decides, as for any other device.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tlserve.core.errors import StoreUnavailable
from tlserve.runtime.devices import Device
from tlserve.runtime.probe import TENSORRT_PROVIDER
from tlserve.runtime.spec import GRAPH_INPUT, BuildSpec

ENGINE_FOLDER = "tensorrt"
"""In the build's folder; may be deleted, the engines are made again in minutes."""


def tensorrt_takes(spec: BuildSpec, device: Device) -> bool:
    """Not int8: our graphs hold unsigned 8-bit activations, and TensorRT knows signed ones only."""
    return device.tensorrt and spec.precision != "int8"


def tensorrt_provider(
    spec: BuildSpec, device: Device, folder: Path, buckets: Sequence[int]
) -> tuple[str, dict[str, str]]:
    """The provider's entry for a build in `folder`, to stand in front of CUDA's.

    buckets: the batch sizes to make one engine for; without any, an engine is made for what comes first, and
    again for what is larger. Raises StoreUnavailable when the folder for engines cannot be made.
    """
    engines = folder / ENGINE_FOLDER
    try:
        engines.mkdir(exist_ok=True)
    except OSError as exc:
        raise StoreUnavailable(f"{engines} cannot be created: {exc.strerror}") from exc
    options = {
        "device_id": str(device.device_id),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(engines),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(engines),
        "trt_fp16_enable": "1" if spec.precision == "fp16" else "0",
    }
    if buckets:
        largest = max(buckets)
        options["trt_profile_min_shapes"] = _shape(spec, 1)
        options["trt_profile_opt_shapes"] = _shape(spec, largest)
        options["trt_profile_max_shapes"] = _shape(spec, largest)
    return TENSORRT_PROVIDER, options


def _shape(spec: BuildSpec, n_images: int) -> str:
    return f"{GRAPH_INPUT}:{n_images}x{spec.image.height}x{spec.image.width}x3"
