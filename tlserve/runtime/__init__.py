"""ONNX Runtime, and nothing else that computes: which device, which builds, and sessions over them.

The daemon and the trainer both load builds through this room; it needs neither torch nor onnx.
"""

from tlserve.runtime.devices import (
    Device,
    ProviderReport,
    available_providers,
    choose_device,
    choose_devices,
    usable_cores,
)
from tlserve.runtime.processor import Processor, this_processor
from tlserve.runtime.reference import reference_tolerance
from tlserve.runtime.session import BackboneSession
from tlserve.runtime.spec import (
    GRAPH_FILE,
    GRAPH_INPUT,
    GRAPH_OUTPUT,
    REFERENCE_FILE,
    SPEC_FILE,
    BuildSpec,
    build_digest,
    read_build_spec,
    record_trial,
    reference_pixels,
    write_build_spec,
)
from tlserve.runtime.speed import (
    SPEED_FILE,
    hardware_of,
    measure,
    measure_build,
    measured_here,
    observed,
    read_speeds,
    record_speeds,
)

__all__ = [
    "GRAPH_FILE",
    "GRAPH_INPUT",
    "GRAPH_OUTPUT",
    "REFERENCE_FILE",
    "SPEC_FILE",
    "SPEED_FILE",
    "BackboneSession",
    "BuildSpec",
    "Device",
    "Processor",
    "ProviderReport",
    "available_providers",
    "build_digest",
    "choose_device",
    "choose_devices",
    "hardware_of",
    "measure",
    "measure_build",
    "measured_here",
    "observed",
    "read_build_spec",
    "read_speeds",
    "record_speeds",
    "record_trial",
    "reference_pixels",
    "reference_tolerance",
    "this_processor",
    "usable_cores",
    "write_build_spec",
]
