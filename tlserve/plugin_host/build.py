"""A backbone becomes a build: exported, held to its promises, wrapped, run, and published in one rename."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from tlserve.core.errors import BackboneProblem, TlserveError
from tlserve.core.promises import info_faults
from tlserve.core.types import Rows
from tlserve.plugin_api import INPUT_NAME, Backbone, BackboneError, BackboneInfo, Layout, Tap
from tlserve.plugin_host.discovery import described
from tlserve.plugin_host.folders import published
from tlserve.plugin_host.wrap import normalised, signature_faults, wrap
from tlserve.runtime import (
    GRAPH_FILE,
    GRAPH_INPUT,
    GRAPH_OUTPUT,
    REFERENCE_FILE,
    BackboneSession,
    BuildSpec,
    Device,
    reference_pixels,
    write_build_spec,
)

PRECISION = "fp32"
CPU_TOLERANCE = 1e-4
CUDA_TOLERANCE = 2e-2
"""Largest difference between the wrapped graph and the plugin's own, relative to the tap's largest value.
On CUDA TensorFloat-32 rounds each product to about 1e-3."""
_LIMIT_BYTES = 2**31 - 2**20

Floats = npt.NDArray[np.float32]


def make_build(backbone: Backbone, plugin: str, backbones_dir: Path, device: Device) -> Path:
    """The folder `backbones_dir/<digest>` of this backbone's build; made now unless it is there already.

    Raises BackboneProblem naming the plugin and the promise it broke, StoreUnavailable when the folder
    cannot be written.
    """
    info = _declared(backbone, plugin)
    spec = BuildSpec.of(info, plugin, PRECISION)
    return published(backbones_dir, spec, lambda making: _fill(making, backbone, spec, device))


def _declared(backbone: Backbone, plugin: str) -> BackboneInfo:
    try:
        info = backbone.info
    except BaseException as exc:
        raise BackboneProblem(f"plugin {plugin!r}: reading `info` failed: {described(exc)}") from exc
    if faults := info_faults(info):
        raise BackboneProblem(f"plugin {plugin!r}: {'; '.join(faults)}")
    return info


def _fill(folder: Path, backbone: Backbone, spec: BuildSpec, device: Device) -> None:
    """Write graph, spec and reference rows into `folder`."""
    who = f"plugin {spec.plugin!r}, backbone {spec.name!r}"
    model = _exported(backbone, folder, spec, who)
    taps = _run_plain(model, spec.info, who)
    wrapped = wrap(model, spec.info, {tap: array.ndim for tap, array in taps.items()})
    try:
        onnx.checker.check_model(wrapped)
    except onnx.checker.ValidationError as exc:
        raise BackboneProblem(f"{who}: the exported graph is not valid ONNX: {described(exc)}") from exc
    (folder / GRAPH_FILE).write_bytes(wrapped.SerializeToString(deterministic=True))
    write_build_spec(folder, spec)
    rows = _reference_rows(folder, spec, device, who)
    as_written = _unoptimised_rows(wrapped, spec) if _is_quantised(wrapped) else rows
    _compare(as_written, taps, spec, CUDA_TOLERANCE if device.is_cuda else CPU_TOLERANCE, who)
    np.save(folder / REFERENCE_FILE, rows, allow_pickle=False)


def _exported(backbone: Backbone, folder: Path, spec: BuildSpec, who: str) -> Any:
    """The plugin's own graph, in memory; nothing of the export stays in `folder`."""
    place = folder / "export"
    place.mkdir()
    path = place / "plain.onnx"
    try:
        backbone.export(path)
        written = sorted(file.name for file in place.iterdir())
        if written != [path.name]:
            raise BackboneProblem(f"{who}: export must write one file without external data, got {written}")
        if path.stat().st_size > _LIMIT_BYTES:
            raise BackboneProblem(
                f"{who}: {path.stat().st_size / 1e9:.1f} GB; graphs over 2 GB are not supported"
            )
        model = onnx.load(path)
    except (BackboneProblem, OSError):
        raise
    except BackboneError as exc:
        raise BackboneProblem(f"{who}: {exc}") from exc
    except BaseException as exc:
        raise BackboneProblem(f"{who}: export failed: {described(exc)}") from exc
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if faults := signature_faults(model, spec.info):
        raise BackboneProblem(f"{who}: {'; '.join(faults)}")
    return model


def _run_plain(model: Any, info: BackboneInfo, who: str) -> Mapping[str, Floats]:
    """What the plugin's graph gives for the reference pictures; its promises about them are checked."""
    images = normalised(reference_pixels(info.image), info.image)
    names = [tap.name for tap in info.taps]
    try:
        session = _plain_session(model)
        taps = dict(zip(names, session.run(names, {INPUT_NAME: images}), strict=True))
        alone = dict(zip(names, session.run(names, {INPUT_NAME: images[:1]}), strict=True))
    except Exception as exc:  # onnxruntime raises a class of its own for each status
        raise BackboneProblem(f"{who}: the exported graph does not run: {described(exc)}") from exc
    for tap in info.taps:
        if fault := _tap_fault(taps[tap.name], alone[tap.name], tap, info.image.layout):
            raise BackboneProblem(f"{who}: tap {tap.name!r} {fault}")
    return taps


def _tap_fault(array: Floats, alone: Floats, tap: Tap, layout: Layout) -> str | None:
    """What is wrong with a tap's activations for a batch, and for its first image alone."""
    if array.dtype != np.float32 or array.ndim not in (2, 4):
        return f"must be float32 [N, width] or a feature map, got {array.dtype} {array.shape}"
    found = array.shape[-1] if layout == "NHWC" else array.shape[1]
    if found != tap.width:
        return f"has {found} features, {tap.width} are declared"
    if not np.isfinite(array).all():
        return "gives NaN or infinity"
    scale = float(np.abs(alone).max(initial=0.0))
    if array[:1].shape != alone.shape or not np.allclose(array[:1], alone, rtol=1e-3, atol=1e-3 * scale):
        return "gives an image other features alone than in a batch"
    return None


def _plain_session(model: Any) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    # It runs twice: optimising the graph would take longer than that.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _reference_rows(folder: Path, spec: BuildSpec, device: Device, who: str) -> Rows:
    try:
        session = BackboneSession.open(folder, device, check=False)
        try:
            return session.rows(reference_pixels(spec.image))
        finally:
            session.close()
    except TlserveError as exc:
        raise BackboneProblem(f"{who}: the build does not run on {device.name}: {exc}") from exc


def _is_quantised(model: Any) -> bool:
    return any(node.op_type == "QuantizeLinear" for node in model.graph.node)


def _unoptimised_rows(model: Any, spec: BuildSpec) -> Rows:
    """What the graph gives as it is written: the integer kernels that ONNX Runtime makes of a quantised
    one round elsewhere, by more than a comparison of two graphs allows. What serves is what is learnt on."""
    given = {GRAPH_INPUT: reference_pixels(spec.image)}
    return np.asarray(_plain_session(model).run([GRAPH_OUTPUT], given)[0], dtype=np.float32)


def _compare(rows: Rows, taps: Mapping[str, Floats], spec: BuildSpec, tolerance: float, who: str) -> None:
    """The wrapped graph must give the plugin's own numbers, pooled and side by side."""
    space = (1, 2) if spec.image.layout == "NHWC" else (2, 3)
    for tap, array in taps.items():
        expected = array.mean(space) if array.ndim == 4 else array
        error = float(np.abs(rows[:, spec.columns((tap,))] - expected).max())
        scale = float(np.abs(expected).max()) or 1.0
        if not error <= tolerance * scale:
            raise BackboneProblem(
                f"{who}: tap {tap!r} differs by {error:.3g} (values up to {scale:.3g}) between the exported "
                "graph and the build made of it"
            )
