"""Graphs that are run to see what they really do: onnxruntime's sessions and its errors, in our words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from tlserve.plugin_api import INPUT_NAME, BackboneError, ImageSpec

SAME_WITHIN = 1e-3

Outputs = Mapping[str, npt.NDArray[np.float32]]


def session_of(model: Any) -> ort.InferenceSession:
    """Raises BackboneError if onnxruntime cannot load the graph."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    # Threads that spin while they wait would take the processor from those that serve.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Such a graph runs a few times only: optimising it would take longer than that.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # onnxruntime raises a class of its own for each status
        raise BackboneError(
            f"onnxruntime {ort.__version__} cannot load the graph: {first_line(exc)}"
        ) from exc


def drawn_pictures(n: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Soft random shapes, the same on every machine: (n, height, width, 3)."""
    draw = np.random.default_rng(0)
    coarse = draw.integers(0, 256, (n, height // 8 + 1, width // 8 + 1, 3))
    soft = coarse.repeat(8, 1).repeat(8, 2)[:, :height, :width]
    noisy = soft + draw.integers(-20, 21, soft.shape)
    return np.asarray(np.clip(noisy, 0, 255), np.uint8)


def prepared(pixels: npt.NDArray[np.uint8], image: ImageSpec) -> npt.NDArray[np.float32]:
    """As tlserve prepares pictures that already have the right size; (n, 3, H, W) or (n, H, W, 3)."""
    ordered = pixels if image.channel_order == "RGB" else pixels[..., ::-1]
    floats = (ordered.astype(np.float32) - np.array(image.mean, np.float32)) / np.array(image.std, np.float32)
    turned = floats.transpose(0, 3, 1, 2) if image.layout == "NCHW" else floats
    return np.ascontiguousarray(turned, dtype=np.float32)


def try_batches(model: Any, image: ImageSpec) -> tuple[str, Outputs]:
    """Run two pictures together and one alone; a non-empty text says what is wrong with the batch dimension.

    Raises BackboneError if the graph cannot be loaded.
    """
    pair = prepared(drawn_pictures(2, image.height, image.width), image)
    session = session_of(model)
    taps = [output.name for output in session.get_outputs()]
    try:
        single = dict(zip(taps, session.run(None, {INPUT_NAME: pair[1:]}), strict=True))
        both = dict(zip(taps, session.run(None, {INPUT_NAME: pair}), strict=True))
    except Exception as exc:  # as in `session_of`
        return f"the graph does not run on a batch: {first_line(exc)}", {}
    for tap in taps:
        one, two = single[tap].shape, both[tap].shape
        if not two or (one[0], two[0]) != (1, 2) or one[1:] != two[1:]:
            return f"tap {tap!r}: one image gives shape {one}, two give {two}", both
        scale = float(np.abs(single[tap]).max(initial=0.0)) or 1.0
        if not np.allclose(both[tap][1:], single[tap], rtol=SAME_WITHIN, atol=SAME_WITHIN * scale):
            return f"tap {tap!r}: an image's features change with the other images of its batch", both
    return "", both


def first_line(exc: Exception) -> str:
    return str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__
