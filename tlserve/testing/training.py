"""Checks of backbones that can be fine-tuned. Each gives what is wrong, or None; torch is imported late."""

from __future__ import annotations

from collections import Counter

import numpy as np

from tlserve.plugin_api import TrainableBackbone
from tlserve.testing.trial import Trial

SAME_WITHIN = 1e-3
"""Relative to the tap's largest value: torch and ONNX Runtime use other kernels."""


def module_agrees(trial: Trial) -> str | None:
    if not isinstance(trial.backbone, TrainableBackbone):
        return None
    import torch

    module = trial.backbone.torch_module().module.eval()
    with torch.no_grad():
        outputs = module(torch.from_numpy(trial.images))
    declared = [tap.name for tap in trial.backbone.info.taps]
    if not isinstance(outputs, dict) or sorted(outputs) != sorted(declared):
        return f"forward must give {{tap: activations}} for {', '.join(declared)}, got {_kind(outputs)}"
    for tap in declared:
        expected = trial.pooled(trial.outputs[tap])
        found = trial.pooled(outputs[tap].numpy())
        scale = float(np.abs(expected).max())
        if found.shape != expected.shape or not np.allclose(
            found, expected, rtol=0, atol=SAME_WITHIN * scale
        ):
            return f"tap {tap!r} of the module differs from the graph's"
    return None


def blocks_cover_parameters(trial: Trial) -> str | None:
    if not isinstance(trial.backbone, TrainableBackbone):
        return None
    trainable = trial.backbone.torch_module()
    in_blocks = Counter(id(parameter) for block in trainable.blocks for parameter in block.parameters())
    names = {id(parameter): name for name, parameter in trainable.module.named_parameters()}
    missing = [name for key, name in names.items() if key not in in_blocks]
    twice = [name for key, name in names.items() if in_blocks[key] > 1]
    strange = len(in_blocks.keys() - names.keys())
    faults = [
        f"{kind}: {', '.join(found[:3])}"
        for kind, found in (("in no block", missing), ("in two blocks", twice))
        if found
    ]
    if strange:
        faults.append(f"{strange} parameters of the blocks are not the module's")
    return "; ".join(faults) or None


def module_is_a_copy(trial: Trial) -> str | None:
    """Spoil every parameter of one module; a new export must not notice."""
    if not isinstance(trial.backbone, TrainableBackbone):
        return None
    import torch

    _ = trial.outputs  # exported and run before the spoiling
    with torch.no_grad():
        for parameter in trial.backbone.torch_module().module.parameters():
            parameter.add_(1.0)
    place = trial.folder / "after training"
    place.mkdir()
    after = Trial(trial.backbone, place)
    wrong = _changed(trial, after)
    return f"after its parameters were changed, {wrong}" if wrong else None


def _changed(trial: Trial, after: Trial) -> str | None:
    for tap, array in trial.outputs.items():
        if not np.allclose(array, after.outputs[tap], rtol=1e-4, atol=1e-6):
            return f"the backbone's {tap!r} changed"
    return None


def _kind(outputs: object) -> str:
    return ", ".join(map(str, outputs)) if isinstance(outputs, dict) else type(outputs).__name__
