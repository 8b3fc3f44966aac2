"""Which axis of a tensor holds its channels, followed from operator to operator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .survey import Survey, Tensor

# Operators whose data lie [N, C, h, w] by definition.
CHANNELS_FIRST = (
    "Conv",
    "QLinearConv",
    "ConvInteger",
    "FusedConv",
    "ConvTranspose",
    "MaxPool",
    "AveragePool",
    "QLinearAveragePool",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "QLinearGlobalAveragePool",
    "BatchNormalization",
    "InstanceNormalization",
    "GroupNormalization",
    "LRN",
)
# Operators that work along the last axis, which is where such networks keep the channels.
CHANNELS_LAST = ("MatMul", "MatMulInteger", "QLinearMatMul", "LayerNormalization", "FusedMatMul", "Gemm")


def channel_axes(survey: Survey) -> Mapping[str, int]:
    """The axis of the channels of each tensor where it can be told; tensors [N, width] have it at 1."""
    shapes = {name: tensor.shape for name, tensor in survey.tensors.items()}
    shapes[survey.input] = (
        (1, 3, survey.height, survey.width)
        if survey.layout == "NCHW"
        else (1, survey.height, survey.width, 3)
    )
    axes = {survey.input: 1 if survey.layout == "NCHW" else 3}
    for tensor in survey.tensors.values():
        if (axis := _axis(tensor, survey, shapes, axes)) is not None:
            axes[tensor.name] = axis
    return {
        name: axes.get(name, _by_shape(tensor, survey))
        for name, tensor in survey.tensors.items()
        if len(tensor.shape) in (2, 3, 4)
    }


def _axis(
    tensor: Tensor, survey: Survey, shapes: Mapping[str, tuple[int, ...]], axes: Mapping[str, int]
) -> int | None:
    node, rank = survey.nodes[tensor.place], len(tensor.shape)
    if rank == 2 or node.op_type in CHANNELS_FIRST:
        return 1
    if node.op_type in CHANNELS_LAST and rank in (3, 4) and not _mixes_tokens(node, survey):
        return rank - 1
    known = [(axes[name], shapes[name]) for name in survey.picture_inputs(node) if name in axes]
    found = (_carried(node, axis, shape, tensor.shape) for axis, shape in known)
    return next((axis for axis in found if axis is not None), None)


def _carried(node: Any, axis: int, old: tuple[int, ...], new: tuple[int, ...]) -> int | None:
    """Where an operator puts the channels that it finds at `axis`."""
    if node.op_type == "Transpose":
        order = _order(node, len(new))
        return order.index(axis) if axis in order else None
    if len(old) == len(new) and (old[axis] == new[axis] or node.op_type == "Concat"):
        return axis
    if node.op_type in ("Reshape", "Flatten", "Squeeze", "Unsqueeze"):
        return _after_reshape(axis, old, new)
    return None


def _after_reshape(axis: int, old: tuple[int, ...], new: tuple[int, ...]) -> int | None:
    """[N, C, h, w] to [N, C, h * w] keeps the channels in front, [N, h, w, C] to [N, h * w, C] behind."""
    if axis == len(old) - 1 and new[-1] == old[-1]:
        return len(new) - 1
    return 1 if axis == 1 and len(new) > 1 and new[1] == old[1] else None


def _mixes_tokens(node: Any, survey: Survey) -> bool:
    """A product of two tensors of one picture: attention, not a layer of weights."""
    return node.op_type != "LayerNormalization" and len(survey.picture_inputs(node)) > 1


def _order(node: Any, rank: int) -> list[int]:
    return next((list(a.ints) for a in node.attribute if a.name == "perm"), list(range(rank))[::-1])


def _by_shape(tensor: Tensor, survey: Survey) -> int:
    shape = tensor.shape
    if len(shape) == 4 and (shape[1] == shape[2]) != (shape[2] == shape[3]):
        return 3 if shape[1] == shape[2] else 1
    return {2: 1, 3: 2}.get(len(shape), 1 if survey.layout == "NCHW" else 3)
