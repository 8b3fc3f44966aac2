"""Checks that the image spec and the graph mean the same pictures: size, channel order, range of values.

What cannot be seen from outside, such as which interpolation a network was trained with, is not checked.
"""

from __future__ import annotations

import io
from itertools import combinations
from typing import Any

import numpy as np
import onnx
from PIL import Image

from tlserve.images import ImageDecoder
from tlserve.plugin_api import INPUT_NAME, ImageSpec, TrainableBackbone
from tlserve.testing.graphs import Doubles, constants, first_steps
from tlserve.testing.trial import Floats, Trial, session_of

SPREADS = ((0.25, 10.0), (100.0, 300.0))
"""How far apart a network may see black and white: most take 1 to 4.4, those that take pixels 255."""
IMAGENET_RGB = (123.675, 116.28, 103.53)
OFF_BY = 400.0
"""Factor between the variance a batch norm has learnt and the one it meets. A forgotten division by 255 or by
ImageNet's 58 makes it 65025 or 3364; that the reference pictures are drawn makes it less than 10."""


def image_is_usable(trial: Trial) -> str | None:
    """Prepare a small drawn picture with the decoder that learning and serving use."""
    spec = trial.backbone.info.image
    numbers = (*spec.mean, *spec.std)
    if len(numbers) != 6 or not all(isinstance(number, int | float) for number in numbers):
        return f"mean and std must be three numbers each, got {spec.mean} and {spec.std}"
    if not np.isfinite(numbers).all() or min(spec.std) <= 0:
        return f"mean must be finite and std above 0, got {spec.mean} and {spec.std}"
    file = io.BytesIO()
    pixels = np.arange(40 * 60 * 3, dtype=np.uint32).astype(np.uint8).reshape(40, 60, 3)
    Image.fromarray(pixels).save(file, "PNG")
    shape = ImageDecoder(spec).decode(file.getvalue()).shape
    if shape != (spec.height, spec.width, 3):
        return f"a picture came out as {shape}"
    return None


def pixel_units(trial: Trial) -> str | None:
    """The commonest slip: the numbers of a library that scales pixels to 0..1 first."""
    spec = trial.backbone.info.image
    low, high = _normalised_range(spec)
    if _usual(low, high):
        return None
    return (
        f"with mean {spec.mean} and std {spec.std}, pixels from 0 to 255 become {low.min():.3g} to "
        f"{high.max():.3g}; multiply numbers meant for 0..1 by 255"
    )


def mean_in_channel_order(trial: Trial) -> str | None:
    spec = trial.backbone.info.image
    usual = IMAGENET_RGB if spec.channel_order == "RGB" else IMAGENET_RGB[::-1]
    if np.allclose(spec.mean, usual[::-1], atol=1.0):
        return f"the mean {spec.mean} is ImageNet's for the other order than {spec.channel_order}"
    return None


def image_size(trial: Trial) -> str | None:
    spec = trial.backbone.info.image
    (node,) = trial.session.get_inputs()
    sides = node.shape[2:] if spec.layout == "NCHW" else node.shape[1:3]
    wanted = [spec.height, spec.width]
    if any(isinstance(side, int) and side != want for side, want in zip(sides, wanted, strict=True)):
        return f"it takes {sides[0]} x {sides[1]}, declared are {wanted[0]} x {wanted[1]} (height x width)"
    try:
        trial.run(trial.images[:1])
    except Exception as exc:  # onnxruntime raises a class of its own for each status
        return f"it fails at {wanted[0]} x {wanted[1]} (height x width): {str(exc)[:200]}"
    return None


def every_channel_counts(trial: Trial) -> str | None:
    axis = 1 if trial.backbone.info.image.layout == "NCHW" else 3
    for place, colour in enumerate(trial.backbone.info.image.channel_order):
        changed = np.moveaxis(trial.images, axis, 0).copy()
        changed[place] = changed[place, ::-1]
        outputs = trial.run(np.ascontiguousarray(np.moveaxis(changed, 0, axis)))
        if all(np.array_equal(outputs[tap], array) for tap, array in trial.outputs.items()):
            return f"channel {place} ({colour}) changes nothing"
    return None


def full_pixel_range(trial: Trial) -> str | None:
    """Dark pictures and bright ones: a graph that wants another range cuts one of them off."""
    last = trial.backbone.info.taps[-1].name
    for what, pixels in (
        ("dark", trial.pixels // 4),
        ("bright", 192 + trial.pixels // 4),
    ):
        features = trial.pooled(trial.run(trial.normalised(pixels))[last])
        if any(np.array_equal(one, other) for one, other in combinations(features, 2)):
            return f"{what} pictures, with pixels from {pixels.min()} to {pixels.max()}, all look the same"
    return None


def normalised_once(trial: Trial) -> str | None:
    factor, offset = first_steps(trial.model)
    if np.array_equal(factor, np.ones(3)) and not offset.any():
        return None
    ends = [end * factor + offset for end in _normalised_range(trial.backbone.info.image)]
    low, high = np.minimum(*ends), np.maximum(*ends)
    if _usual(low, high):
        return None
    return (
        f"the graph changes its input by itself, and then pixels run from {low.min():.3g} to "
        f"{high.max():.3g}; take that out of the graph, or declare mean 0 and std 1"
    )


def range_fits(trial: Trial) -> str | None:
    """Compare what the first batch norm has learnt about its input with what it gets, if there is one."""
    factor = _graph_factor(trial)
    if factor is None and isinstance(trial.backbone, TrainableBackbone):
        factor = _module_factor(trial, trial.backbone)
    if factor is None or 1 / OFF_BY <= factor <= OFF_BY:
        return None
    return (
        f"the first batch norm meets values {np.sqrt(factor):.3g} times as large as those it was trained on: "
        "look at mean and std"
    )


def _normalised_range(spec: ImageSpec) -> tuple[Doubles, Doubles]:
    mean, std = np.array(spec.mean, np.float64), np.array(spec.std, np.float64)
    return -mean / std, (255 - mean) / std


def _usual(low: Doubles, high: Doubles) -> bool:
    spread = float((high - low).max())
    return any(least <= spread <= most for least, most in SPREADS)


def _graph_factor(trial: Trial) -> float | None:
    node = next((node for node in trial.model.graph.node if node.op_type == "BatchNormalization"), None)
    held = constants(trial.model, at_most=100_000)
    if node is None or not {node.input[3], node.input[4]} <= held.keys():
        return None
    model = onnx.ModelProto()
    model.CopyFrom(trial.model)
    model.graph.output.append(onnx.helper.make_tensor_value_info(node.input[0], onnx.TensorProto.FLOAT, None))
    found = session_of(model.SerializeToString()).run([node.input[0]], {INPUT_NAME: trial.images})[0]
    return _variance_factor(found, held[node.input[3]], held[node.input[4]])


def _module_factor(trial: Trial, backbone: TrainableBackbone) -> float | None:
    import torch

    module = backbone.torch_module().module.eval()
    factors: list[float] = []

    def meet(norm: Any, inputs: tuple[Any, ...]) -> None:
        factors.append(
            _variance_factor(inputs[0].numpy(), norm.running_mean.numpy(), norm.running_var.numpy())
        )

    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d) and part.running_var is not None:
            part.register_forward_pre_hook(meet)
    with torch.no_grad():
        module(torch.from_numpy(trial.images))
    return factors[0] if factors else None


def _variance_factor(found: Floats, mean: Floats, variance: Floats) -> float:
    """By how much values lie further from the learnt mean than the learnt variance says; over channels, the
    middle one. found: (n, channels, ...)."""
    if not mean.any() and (variance == 1).all():
        return 1.0  # as torch makes them: nothing was learnt yet, so nothing can be told
    axes = tuple(axis for axis in range(found.ndim) if axis != 1)
    shape = tuple(-1 if axis == 1 else 1 for axis in range(found.ndim))
    met = ((found - mean.reshape(shape)).astype(np.float64) ** 2).mean(axes)
    return float(np.median(met / np.maximum(variance, 1e-12)))
