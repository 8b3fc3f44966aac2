"""A tuned network as a backbone like any other: described, digested and exported, ready for a build."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from tlserve.plugin_api import INPUT_NAME, BackboneError, BackboneInfo, ImageSpec
from tlserve.tuning.cut import input_shape, pooled
from tlserve.tuning.state import WEIGHTS_FILE, save_weights, state_digest
from tlserve.tuning.train import Tuned

SUFFIX = ", tuned"
SUFFIX_SCRATCH = ", trained from random weights"
BUILD_VERSION = "tuned-1"
_OPSET = 18


class TunedBackbone:
    """Implements `plugin_api.Backbone`. The module must not change any more."""

    def __init__(self, parent: BackboneInfo, tuned: Tuned) -> None:
        module = tuned.trainable.module
        how = (
            "trained from random weights"
            if tuned.from_scratch
            else f"fine-tuned from {parent.weights_origin}"
        )
        suffix = SUFFIX_SCRATCH if tuned.from_scratch else SUFFIX
        self._module = module
        self._info = dataclasses.replace(
            parent,
            name=parent.name.removesuffix(SUFFIX).removesuffix(SUFFIX_SCRATCH) + suffix,
            weights_origin=f"{how} on {tuned.n_images} images",
            weights_sha256=state_digest(module),
            # The parent's too: what its architecture is stands there.
            build_version=f"{BUILD_VERSION}:{parent.build_version}",
        )

    @property
    def info(self) -> BackboneInfo:
        return self._info

    def export(self, path: Path) -> None:
        """Write the network in inference mode as one ONNX file; each tap comes out as [N, width].

        Raises BackboneError if torch cannot export it, OSError if `path` cannot be written.
        """
        image = self._info.image
        taps = tuple(tap.name for tap in self._info.taps)
        module = _PooledTaps(self._module.eval(), taps, image)
        path.write_bytes(b"")  # an export takes up to a minute: learn first that its file can be written
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # the exporter's notes to its own developers
                program = torch.onnx.export(
                    module,
                    (torch.zeros(2, *input_shape(image)),),
                    input_names=[INPUT_NAME],
                    output_names=list(taps),
                    opset_version=_OPSET,
                    dynamo=True,
                    dynamic_shapes=({0: torch.export.Dim("N")},),
                    verbose=False,
                )
        except Exception as exc:  # the exporter names no root of its own
            raise BackboneError(f"torch {torch.__version__} cannot export the tuned network: {exc}") from exc
        if program is None:
            raise BackboneError(f"torch {torch.__version__} exported nothing")
        path.write_bytes(program.model_proto.SerializeToString())

    def save(self, folder: Path) -> Path:
        """Write the weights into `folder` as safetensors and return the file. Raises StoreUnavailable."""
        path = folder / WEIGHTS_FILE
        save_weights(self._module, path)
        return path


class _PooledTaps(nn.Module):
    def __init__(self, module: nn.Module, taps: tuple[str, ...], image: ImageSpec) -> None:
        super().__init__()
        self.module = module
        self._taps, self._image = taps, image

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        found = self.module(pictures)
        return tuple(pooled(found[tap], self._image) for tap in self._taps)
