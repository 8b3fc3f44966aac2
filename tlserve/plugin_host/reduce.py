"""An fp32 build gets a smaller sibling: the same backbone in 8-bit or 16-bit numbers, a build of its own.

Whatever the smaller graph gives is what heads are trained on, so it need not equal the fp32 graph; it must
only be the same everywhere, which its reference rows are for. Opens no plugin.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tlserve.core.errors import BackboneProblem, BadInput, CorruptState, TlserveError
from tlserve.core.precision import Precision
from tlserve.core.types import Pixels, Rows
from tlserve.plugin_host.discovery import described
from tlserve.plugin_host.folders import published
from tlserve.runtime import (
    GRAPH_FILE,
    REFERENCE_FILE,
    BackboneSession,
    BuildSpec,
    Device,
    read_build_spec,
    reference_pixels,
    this_processor,
    write_build_spec,
)

COPIES_ON_DISK = 4
"""Of a graph while it is converted: simplified, with shapes, reduced, published."""
_BLOCK = bytes(2**20)
_QUANTISED = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}


def reduce_build(build: Path, precision: Precision, calibration: Pixels, device: Device) -> Path:
    """The sibling at INT8 or FP16 of the fp32 build in folder `build`; made now unless it is there already.

    calibration: (n, H, W, 3) uint8, real pictures of the kind the build will see, at its own size; 128 are
    enough, and FP16 looks at none. device: where the reference rows are computed.
    Raises BackboneProblem where it cannot be done, with the reason, CorruptState when the fp32 build is
    unreadable, StoreUnavailable when the folder cannot be written.
    """
    given = read_build_spec(build)
    who = f"backbone {given.name!r}"
    if precision not in (Precision.INT8, Precision.FP16):
        raise BackboneProblem(f"{who}: there is no way to make a build at precision {precision.value!r}")
    if given.precision != Precision.FP32:
        raise BackboneProblem(f"{who}: only an fp32 build can be reduced, {build} is {given.precision}")
    spec = BuildSpec.of(given.info, given.plugin, precision.value)
    spec = dataclasses.replace(spec, made_on=this_processor().describe())
    return published(build.parent, spec, lambda making: _fill(making, build, spec, calibration, device))


def _fill(making: Path, build: Path, spec: BuildSpec, calibration: Pixels, device: Device) -> None:
    """Write graph, spec and reference rows into `making`."""
    who = f"backbone {spec.name!r} in {spec.precision}"
    graph = _reduced(build, making, spec, calibration, who)
    (making / GRAPH_FILE).write_bytes(graph.SerializeToString(deterministic=True))
    write_build_spec(making, spec)
    np.save(making / REFERENCE_FILE, _reference_rows(making, spec, device, who), allow_pickle=False)


def _reduced(build: Path, scratch: Path, spec: BuildSpec, calibration: Pixels, who: str) -> Any:
    model = _loaded(build / GRAPH_FILE)
    if _is_quantised(model):
        raise BackboneProblem(f"{who}: the graph is already quantised by its author")
    try:
        if spec.precision == Precision.INT8:
            from tlserve.plugin_host.int8 import in_int8

            _check_calibration(calibration, spec, who)
            saturates = this_processor().saturates is not False
            reduced = in_int8(model, spec.image, calibration, scratch, seven_bits=saturates)
        else:
            from tlserve.plugin_host.float16 import in_float16

            reduced = in_float16(model)
        onnx.checker.check_model(reduced)
    except (TlserveError, OSError):
        raise
    except Exception as exc:  # onnx, onnxruntime and its converters share no error class
        # onnxruntime does not tell a full disk from a graph that it cannot write.
        _check_room(scratch, COPIES_ON_DISK * (build / GRAPH_FILE).stat().st_size)
        raise BackboneProblem(f"{who}: the graph cannot be converted: {described(exc)}") from exc
    return reduced


def _check_room(folder: Path, n_bytes: int) -> None:
    """Raises OSError where the folder does not take so many bytes, which are gone afterwards."""
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(-(-n_bytes // len(_BLOCK))):
            file.write(_BLOCK)


def _is_quantised(model: Any) -> bool:
    """Whether the graph computes in 8-bit numbers already, in whatever form."""
    kinds = {node.op_type for node in model.graph.node}
    return bool(kinds & _QUANTISED) or any(kind.startswith("QLinear") for kind in kinds)


def _loaded(path: Path) -> Any:
    try:
        return onnx.load(str(path))
    except Exception as exc:  # onnx and protobuf have no error class of their own in common
        mend = f"delete {path.parent}, it is built again"
        raise CorruptState(f"{path} is not a readable ONNX file ({exc}); {mend}") from exc


def _check_calibration(pixels: Pixels, spec: BuildSpec, who: str) -> None:
    expected = (spec.image.height, spec.image.width, 3)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != expected:
        raise BadInput(f"{who}: pictures to calibrate on must be uint8 (n, *{expected}), not {pixels.shape}")
    if len(pixels) == 0:
        raise BackboneProblem(f"{who}: there are no pictures to calibrate on")


def _reference_rows(folder: Path, spec: BuildSpec, device: Device, who: str) -> Rows:
    """Of the reduced graph; what is not finite was out of its range."""
    try:
        session = BackboneSession.open(folder, device, check=False)
        try:
            rows = session.rows(reference_pixels(spec.image))
        finally:
            session.close()
    except TlserveError as exc:
        raise BackboneProblem(f"{who}: the build does not run on {device.name}: {exc}") from exc
    if not np.isfinite(rows).all():
        raise BackboneProblem(f"{who}: some features come out as NaN or infinity")
    return rows
