"""ONNX Runtime, and nothing else that computes: which device, which builds, and sessions over them.

The daemon and the trainer both load builds through this room; it needs neither torch nor onnx.
"""

from tlserve.runtime.devices import (
    Device,
    Preference,
    ProviderReport,
    available_providers,
    choose_device,
    usable_cores,
)
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
    reference_pixels,
    write_build_spec,
)

__all__ = [
    "GRAPH_FILE",
    "GRAPH_INPUT",
    "GRAPH_OUTPUT",
    "REFERENCE_FILE",
    "SPEC_FILE",
    "BackboneSession",
    "BuildSpec",
    "Device",
    "Preference",
    "ProviderReport",
    "available_providers",
    "build_digest",
    "choose_device",
    "read_build_spec",
    "reference_pixels",
    "usable_cores",
    "write_build_spec",
]
