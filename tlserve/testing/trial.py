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

from tlserve.plugin_api import INPUT_NAME, Backbone
from tlserve.runtime import reference_pixels

Floats = npt.NDArray[np.float32]


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
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        return ort.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])

    @cached_property
    def images(self) -> Floats:
        """The first three reference pictures, normalised: (3, 3, H, W), or (3, H, W, 3) for NHWC."""
        spec = self.backbone.info.image
        pixels = reference_pixels(spec)[:3]
        ordered = pixels if spec.channel_order == "RGB" else pixels[..., ::-1]
        floats = (ordered.astype(np.float32) - np.array(spec.mean, np.float32)) / np.array(
            spec.std, np.float32
        )
        turned = floats.transpose(0, 3, 1, 2) if spec.layout == "NCHW" else floats
        return np.ascontiguousarray(turned, dtype=np.float32)

    @cached_property
    def outputs(self) -> Mapping[str, Floats]:
        """What the exported graph gives for the three pictures in one batch, by output name."""
        return self.run(self.images)

    def run(self, images: Floats) -> Mapping[str, Floats]:
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(None, {INPUT_NAME: images}), strict=True))

    def pooled(self, array: Floats) -> Floats:
        """Averaged over space, as tlserve does it: (n, width)."""
        if array.ndim != 4:
            return array
        return np.asarray(array.mean((1, 2) if self.backbone.info.image.layout == "NHWC" else (2, 3)))
