"""Checks of the exported graph: its file, its inputs and outputs, and that it always answers the same."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import onnx
from onnx.external_data_helper import uses_external_data

from tlserve.plugin_api import INPUT_NAME, BackboneError
from tlserve.testing.graphs import all_nodes, constants, depths
from tlserve.testing.trial import RAISED, Outputs, Trial, difference

MIN_OPSET = 7
"""As old as the operators that tlserve adds around a graph."""
_FREE = 'with torch.onnx.export give dynamic_shapes=({0: torch.export.Dim("N")},)'
_RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)


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


def opset_is_supported(trial: Trial) -> str | None:
    opset = next((o.version for o in trial.model.opset_import if o.domain in ("", "ai.onnx")), 0)
    return None if opset >= MIN_OPSET else f"found opset {opset}"


def input_signature(trial: Trial) -> str | None:
    found = [(node.name, node.type, node.shape) for node in trial.session.get_inputs()]
    layout = trial.backbone.info.image.layout
    if len(found) == 1:
        name, kind, shape = found[0]
        place = 1 if layout == "NCHW" else 3
        fits = len(shape) == 4 and (shape[place] == 3 or not isinstance(shape[place], int))
        if name == INPUT_NAME and kind == "tensor(float)" and fits:
            return None
    return f"found {found}, wanted {INPUT_NAME!r}, tensor(float), with 3 channels where {layout} has them"


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


def taps_run_deeper(trial: Trial) -> str | None:
    depth = depths(trial.model.graph)
    taps = [tap.name for tap in trial.backbone.info.taps]
    for before, after in pairwise(taps):
        if depth[before] > depth[after]:
            deep = f"{depth[before]} layers deep, not {depth[after]}"
            return f"{before!r} comes before {after!r}, but lies {deep}"
    return None


def batch_is_free(trial: Trial) -> str | None:
    n = len(trial.images)
    (node,) = trial.session.get_inputs()
    if isinstance(node.shape[0], int):
        return f"the graph takes batches of {node.shape[0]} only; {_FREE}"
    try:
        _ = trial.outputs
    except Exception:  # onnxruntime raises a class of its own for each status
        sizes = [size for size in (1, 2) if _runs(trial, size)]
        if not sizes:
            return None  # it does not run at all, which the checks after this one tell
        return f"the graph takes batches of {sizes[0]} only; {_FREE}"
    wrong = [tap for tap, array in trial.outputs.items() if array.shape[:1] != (n,)]
    return f"{n} images do not give {n} rows for {', '.join(wrong)}" if wrong else None


def _runs(trial: Trial, n_images: int) -> bool:
    try:
        trial.run(trial.images[:n_images])
    except Exception:  # as above
        return False
    return True


def all_finite(trial: Trial) -> str | None:
    black, white = (np.full_like(trial.pixels[:1], level) for level in (0, 255))
    for what, outputs in (
        ("the reference pictures", trial.outputs),
        ("a black picture", trial.run(trial.normalised(black))),
        ("a white picture", trial.run(trial.normalised(white))),
    ):
        wrong = [tap for tap, array in outputs.items() if not np.isfinite(array).all()]
        if wrong:
            return f"{', '.join(wrong)} has some for {what}"
    return None


def deterministic(trial: Trial) -> str | None:
    return difference(trial.outputs, trial.run(trial.images))


def alone_or_in_a_batch(trial: Trial) -> str | None:
    return difference(trial.outputs, one_by_one(trial))


def one_by_one(trial: Trial) -> Outputs:
    alone = [trial.run(trial.images[place : place + 1]) for place in range(len(trial.images))]
    return {tap: np.concatenate([out[tap] for out in alone]) for tap in alone[0]}


def inference_mode(trial: Trial) -> str | None:
    held = constants(trial.model, at_most=1)
    wrong = [node.name or node.op_type for node in all_nodes(trial.model) if _is_training(node, held)]
    return f"found {', '.join(wrong[:5])}" if wrong else None


def tells_images_apart(trial: Trial) -> str | None:
    features = trial.pooled(trial.outputs[trial.backbone.info.taps[-1].name])
    if any(np.array_equal(one, other) for one, other in combinations(features, 2)):
        return "two images that differ have equal ones"
    return None


def unwritable_path(trial: Trial) -> str | None:
    refusal = trial.refusal
    if refusal is None:
        return "no error came"
    if isinstance(refusal, BackboneError | OSError):
        return None
    return f"a {type(refusal).__name__} came instead: {refusal}"


def works_after_a_failed_export(trial: Trial) -> str | None:
    try:
        is_there = trial.again.path.is_file()
    except RAISED as exc:
        return f"the next export raised {type(exc).__name__}: {exc}"
    return None if is_there else "the next export wrote no file"


def export_repeats(trial: Trial) -> str | None:
    return difference(trial.outputs, trial.again.outputs)


def _is_training(node: Any, held: Mapping[str, Any]) -> bool:
    if node.op_type == "BatchNormalization":
        return any(a.name == "training_mode" and a.i == 1 for a in node.attribute) or len(node.output) > 1
    if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
        return bool(held.get(node.input[2], True))
    return node.op_type in _RANDOM
