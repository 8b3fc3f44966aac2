"""One backbone under test: exported once, run on the reference pictures once, for all checks together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from tlserve.core.types import Pixels
from tlserve.plugin_api import INPUT_NAME, Backbone
from tlserve.runtime import reference_pixels

Floats = npt.NDArray[np.float32]
Outputs = Mapping[str, Floats]

N_IMAGES = 3
SAME_WITHIN = 1e-4
"""Relative to the tap's largest value: kernels sum in another order for another batch size, and torch's in
another order than ONNX Runtime's."""
RAISED = (Exception, SystemExit)
"""What a plugin's code may raise: a library's `sys.exit` is a fault of the plugin and no end of the tests,
but Ctrl-C is, and pytest's own signals pass through."""


class CheckFailed(AssertionError):  # reads as a sentence, like AssertionError's own name
    """A backbone breaks a promise.

    check: name of the check; promise: what was promised; found: what came instead.
    """

    def __init__(self, check: str, promise: str, found: str) -> None:
        super().__init__(f"{check}: {promise}; {found}")
        self.check, self.promise, self.found = check, promise, found


@dataclass(frozen=True)
class Trial:
    """The backbone, an empty folder of its own, and what is computed from them once, when first asked."""

    backbone: Backbone
    folder: Path

    @cached_property
    def path(self) -> Path:
        """The exported file, alone in a fresh folder."""
        place = self.folder / "export"
        place.mkdir()
        path = place / "backbone.onnx"
        self.backbone.export(path)
        return path

    @cached_property
    def model(self) -> Any:
        """The exported file as a ModelProto, read without any external data."""
        return onnx.load(self.path, load_external_data=False)

    @cached_property
    def session(self) -> ort.InferenceSession:
        return session_of(str(self.path))

    @cached_property
    def pixels(self) -> Pixels:
        """The first reference pictures: (N_IMAGES, H, W, 3) uint8 RGB."""
        return reference_pixels(self.backbone.info.image)[:N_IMAGES]

    @cached_property
    def images(self) -> Floats:
        """The same, as the backbone takes them."""
        return self.normalised(self.pixels)

    @cached_property
    def outputs(self) -> Outputs:
        """What the exported graph gives for the pictures in one batch, by output name."""
        return self.run(self.images)

    @cached_property
    def refusal(self) -> Exception | SystemExit | None:
        """What export raises when it cannot write: into a read-only folder.

        Nothing is read-only to root; there it is a folder that is a file, which nobody can write into.
        """
        _ = self.path  # a sound export first, so that what comes after is compared with it
        place = self.folder / "read only"
        place.mkdir(mode=0o500)
        if _writable(place):
            place.rmdir()
            place.touch()
        try:
            self.backbone.export(place / "backbone.onnx")
        except RAISED as exc:
            return exc
        return None

    @cached_property
    def again(self) -> Trial:
        """A second export into another folder, after one that failed."""
        _ = self.refusal
        place = self.folder / "again"
        place.mkdir()
        return Trial(self.backbone, place)

    def normalised(self, pixels: Pixels) -> Floats:
        """Pictures (n, H, W, 3) as the backbone takes them: (n, 3, H, W), or (n, H, W, 3) for NHWC."""
        spec = self.backbone.info.image
        ordered = pixels if spec.channel_order == "RGB" else pixels[..., ::-1]
        mean, std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
        floats = (ordered.astype(np.float32) - mean) / std
        turned = floats.transpose(0, 3, 1, 2) if spec.layout == "NCHW" else floats
        return np.ascontiguousarray(turned, dtype=np.float32)

    def run(self, images: Floats) -> Outputs:
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(None, {INPUT_NAME: images}), strict=True))

    def pooled(self, array: Floats) -> Floats:
        """Averaged over space, as tlserve does it: (n, width)."""
        if array.ndim != 4:
            return array
        return np.asarray(array.mean((1, 2) if self.backbone.info.image.layout == "NHWC" else (2, 3)))


def session_of(model: str | bytes) -> ort.InferenceSession:
    """A quiet session on the CPU that runs the graph as it was written."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def difference(expected: Outputs, found: Outputs) -> str | None:
    """Where two runs differ by more than `SAME_WITHIN` of the tap's largest value, in words."""
    for tap, array in expected.items():
        if array.shape != found[tap].shape:
            return f"{tap!r} comes as {found[tap].shape} instead of {array.shape}"
        scale = float(np.abs(array).max(initial=0.0))
        error = float(np.abs(array - found[tap]).max(initial=0.0))
        if not error <= SAME_WITHIN * scale:
            return f"{tap!r} differs by {error:.3g} where values go up to {scale:.3g}"
    return None


def _writable(folder: Path) -> bool:
    try:
        (folder / "probe").touch()
    except OSError:
        return False
    (folder / "probe").unlink()
    return True
