"""Checks of the exported graph. Each gives what is wrong, or None."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import onnx
from onnx.external_data_helper import uses_external_data

from tlserve.plugin_api import INPUT_NAME, BackboneError
from tlserve.testing.trial import Floats, Trial

SAME_WITHIN = 1e-4
"""Relative to the tap's largest value: kernels may sum in another order for another batch size."""


def unwritable_path(trial: Trial) -> str | None:
    """Export below a folder that does not exist; whether the backbone still works, the next checks tell."""
    path = trial.folder / "no such folder" / "backbone.onnx"
    try:
        trial.backbone.export(path)
    except (BackboneError, OSError):
        return None
    except Exception as exc:
        return f"a {type(exc).__name__} came instead: {exc}"
    return "no error came" if path.exists() else "no error came, and no file"


def export_works(trial: Trial) -> str | None:
    if not trial.path.is_file():
        return "no file was written"
    try:
        onnx.checker.check_model(trial.model)
    except onnx.checker.ValidationError as exc:
        return f"the file is not valid: {exc}"
    _ = trial.session
    return None


def single_file(trial: Trial) -> str | None:
    names = sorted(file.name for file in trial.path.parent.iterdir())
    if names != [trial.path.name]:
        return f"found {', '.join(names)}"
    external = [tensor.name for tensor in trial.model.graph.initializer if uses_external_data(tensor)]
    return f"{len(external)} tensors are kept outside, {external[0]!r} first" if external else None


def input_signature(trial: Trial) -> str | None:
    found = [(node.name, node.type, node.shape) for node in trial.session.get_inputs()]
    spec = trial.backbone.info.image
    sides = [spec.height, spec.width]
    wanted = [3, *sides] if spec.layout == "NCHW" else [*sides, 3]
    if len(found) == 1:
        name, kind, shape = found[0]
        fits = len(shape) == 4 and all(
            d == w or not isinstance(d, int) for d, w in zip(shape[1:], wanted, strict=True)
        )
        if name == INPUT_NAME and kind == "tensor(float)" and fits:
            return None
    return f"found {found}, wanted ['N', {', '.join(map(str, wanted))}]"


def outputs_are_the_taps(trial: Trial) -> str | None:
    spec = trial.backbone.info
    declared = {tap.name: tap.width for tap in spec.taps}
    one = trial.run(trial.images[:1])
    if set(one) != set(declared):
        return f"found {', '.join(one)}, declared {', '.join(declared)}"
    for tap, array in one.items():
        if array.dtype != np.float32 or array.ndim not in (2, 4):
            return f"{tap!r} is {array.dtype} {array.shape}, not float32 of 2 or 4 dimensions"
        width = trial.pooled(array).shape[1]
        if width != declared[tap]:
            return f"{tap!r} has {width} features, {declared[tap]} are declared"
    return None


def batch_is_free(trial: Trial) -> str | None:
    n = len(trial.images)
    wrong = [tap for tap, array in trial.outputs.items() if array.shape[0] != n]
    return f"{n} images do not give {n} rows for {', '.join(wrong)}" if wrong else None


def all_finite(trial: Trial) -> str | None:
    blank = trial.run(np.zeros_like(trial.images[:1]))
    wrong = [
        tap for out in (trial.outputs, blank) for tap, array in out.items() if not np.isfinite(array).all()
    ]
    return f"{', '.join(dict.fromkeys(wrong))} has some" if wrong else None


def deterministic(trial: Trial) -> str | None:
    return _difference(trial.outputs, trial.run(trial.images))


def alone_or_in_a_batch(trial: Trial) -> str | None:
    alone = [trial.run(trial.images[place : place + 1]) for place in range(len(trial.images))]
    together = {tap: np.concatenate([out[tap] for out in alone]) for tap in trial.outputs}
    return _difference(trial.outputs, together)


def inference_mode(trial: Trial) -> str | None:
    constants = _constants(trial.model)
    wrong = [node.name or node.op_type for node in trial.model.graph.node if _is_training(node, constants)]
    return f"found {', '.join(wrong[:5])}" if wrong else None


def tells_images_apart(trial: Trial) -> str | None:
    features = trial.pooled(list(trial.outputs.values())[-1])
    if any(np.array_equal(one, other) for one, other in combinations(features, 2)):
        return "two images that differ have equal ones"
    return None


def export_repeats(trial: Trial) -> str | None:
    place = trial.folder / "again"
    place.mkdir()
    again = Trial(trial.backbone, place)
    return _difference(trial.outputs, again.outputs)


def _difference(expected: Mapping[str, Floats], found: Mapping[str, Floats]) -> str | None:
    for tap, array in expected.items():
        scale = float(np.abs(array).max(initial=0.0))
        error = float(np.abs(array - found[tap]).max(initial=0.0))
        if not error <= SAME_WITHIN * scale:
            return f"{tap!r} differs by {error:.3g} where values go up to {scale:.3g}"
    return None


def _constants(model: Any) -> dict[str, Any]:
    """Small constant tensors of the graph as arrays, by name."""
    held = {tensor.name: tensor for tensor in model.graph.initializer if len(tensor.dims) == 0}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            held[node.output[0]] = node.attribute[0].t
    return {name: onnx.numpy_helper.to_array(tensor) for name, tensor in held.items()}


def _is_training(node: Any, constants: Mapping[str, Any]) -> bool:
    if node.op_type == "BatchNormalization":
        return any(a.name == "training_mode" and a.i == 1 for a in node.attribute) or len(node.output) > 1
    if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
        return bool(constants.get(node.input[2], True))
    return node.op_type in (
        "RandomNormal",
        "RandomUniform",
        "RandomNormalLike",
        "RandomUniformLike",
        "Bernoulli",
    )
