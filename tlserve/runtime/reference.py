"""The check that a host gives the rows a build was made with, before a head is believed on them.

Every build carries what its graph gave for eight pictures on the host that made it. Another processor, a GPU
or a newer ONNX Runtime rounds a little differently; a wrong graph, or 8-bit sums that saturate, give other
features, which no head was trained on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tlserve.core.errors import BuildMismatch, CorruptState
from tlserve.core.precision import Precision
from tlserve.core.types import Rows
from tlserve.runtime.devices import Device
from tlserve.runtime.processor import Processor, this_processor
from tlserve.runtime.spec import REFERENCE_FILE, BuildSpec

REFERENCE_TOLERANCE = 0.01
"""Largest allowed difference to the reference rows, per tap, as root mean square relative to the tap's own.

Processors differ by about 1e-6 and TensorFloat-32 by about 1e-3; a wrong graph, weights or channel order
by more than 0.1. It also holds for the first of several taps in int8, whose numbers have hardly been rounded
yet: 1e-4 between two ways to compute a build of MobileNetV2, 0.06 where its sums saturate."""

DEEP_INT8_TOLERANCE = 0.06
"""The same for every other tap of an int8 build: where another kernel rounds one number to the other side,
the deeper layers make more of it. Number of threads, place in a batch: no difference at all. Whole integer
kernels against the same graph in float32: up to 0.04 (MobileNetV2, EfficientNet-B0), 0.007 (ResNet-18).
Sums that saturate, computed as a processor without VNNI does: 0.08 (nano) and 0.24 (MobileNetV2); on real
photographs, 0.3 and 0.5."""

FLOAT16_TOLERANCE = 0.05
"""The same for a build in float16, where every kernel rounds in places of its own. On a CPU, which keeps sums
in float32, rows are 0.001 (nano) to 0.02 (MobileNetV2) away from fp32. Between two GPUs: not measured yet."""


def reference_tolerance(spec: BuildSpec, tap: str) -> float:
    """Largest difference at which `tap` of this build still counts as reproduced."""
    if spec.precision == Precision.FP16:
        return FLOAT16_TOLERANCE
    first_of_several = len(spec.taps) > 1 and tap == spec.taps[0].name
    if spec.precision == Precision.INT8 and not first_of_several:
        return DEEP_INT8_TOLERANCE
    return REFERENCE_TOLERANCE


def compare_with_reference(rows: Rows, spec: BuildSpec, device: Device, folder: Path) -> None:
    """Hold `rows`, what `device` gives for `reference_pixels`, against those stored in the build's `folder`.

    Raises BuildMismatch when they differ, CorruptState when the file is unreadable.
    """
    stored = _read_reference(folder, spec)
    for tap in spec.taps:
        columns = spec.columns((tap.name,))
        scale = _root_mean_square(stored[:, columns])
        error = _root_mean_square(rows[:, columns] - stored[:, columns])
        if not error <= reference_tolerance(spec, tap.name) * max(scale, 1e-6):
            told = f"tap {tap.name!r} differs by {error:.3g} where values are about {scale:.3g}"
            raise BuildMismatch(_mismatch(told, spec, device, folder))


def _mismatch(told: str, spec: BuildSpec, device: Device, folder: Path) -> str:
    if spec.precision == Precision.FP32:
        which, advice = "", f"delete {folder} to build it anew"
    else:
        which, advice = f" in {spec.precision}", mismatch_advice(spec, this_processor())
    who = f"the backbone {spec.name!r}{which} on {device.name}"
    return f"{who} does not reproduce its reference rows: {told}; {advice}"


def mismatch_advice(spec: BuildSpec, here: Processor) -> str:
    """Of a reduced build: where it was made, what `here` lacks as far as that is known, and what to do."""
    made = f"it was made on {spec.made_on or 'another processor'}"
    if spec.precision == Precision.INT8 and here.saturates and spec.made_on != here.describe():
        why = f"{made}, and {here.name} has no VNNI (nor AMX), without which 8-bit sums saturate"
    else:
        why = f"{made}, this is {here.describe()}"
    return f'{why}; serve it where it was made, or set precision = "fp32" here and retrain'


def _root_mean_square(values: Rows) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def _read_reference(folder: Path, spec: BuildSpec) -> Rows:
    path = folder / REFERENCE_FILE
    try:
        stored = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as exc:
        raise CorruptState(f"{path} cannot be read ({exc}); delete {folder}, it is built again") from exc
    if stored.ndim != 2 or stored.shape[1] != spec.row_width or not np.issubdtype(stored.dtype, np.floating):
        raise CorruptState(f"{path} holds {stored.dtype} {stored.shape}, not float32 (8, {spec.row_width})")
    return np.asarray(stored, dtype=np.float32)
