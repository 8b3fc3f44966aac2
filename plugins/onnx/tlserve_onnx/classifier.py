"""Where a network's classifier begins: the layer that is cut off, and the tensor that goes into it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from .survey import Survey

_LINEAR = (
    "Gemm",
    "MatMul",
    "QGemm",
    "QLinearMatMul",
    "MatMulInteger",
    "FusedGemm",
    "FusedMatMul",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "MatMulNBits",
)
CONVOLUTIONS = ("Conv", "QLinearConv", "ConvInteger", "FusedConv")
WEIGHTED = (*_LINEAR, *CONVOLUTIONS)
SIGMOIDS = ("Sigmoid", "QLinearSigmoid", "HardSigmoid")
_PROBABILITIES = ("Softmax", "LogSoftmax", "QLinearSoftmax", *SIGMOIDS)
_POOLS = (
    "GlobalAveragePool",
    "GlobalMaxPool",
    "AveragePool",
    "ReduceMean",
    "QLinearGlobalAveragePool",
    "QLinearAveragePool",
    "QLinearReduceMean",
)
ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "Selu", "Tanh", "HardSwish", "Gelu")
_PASSES_ON = (
    "Identity",
    "Cast",
    "Dropout",
    "Flatten",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "QuantizeLinear",
    "DequantizeLinear",
    "ArgMax",
    "TopK",
)
_WITH_A_CONSTANT = ("Add", "Sub", "Mul", "Div", "QLinearAdd", "QLinearMul")
_BEFORE_CLASSIFIER = ("Dropout", "Identity", "Cast", "DynamicQuantizeLinear")
_USUAL_CLASSES = (1000, 1001, 21841, 21843)
_EMBEDDING_NAME = re.compile(r"embed|feature|pool|hidden|latent", re.IGNORECASE)
_NARROWEST_EMBEDDING = 64


@dataclass(frozen=True, slots=True)
class Classifier:
    """The last layer of a classifier; the tensor `features` goes into it."""

    features: str
    layer: str
    """Name of the node, or of its output where it has none."""
    operator: str
    n_in: int
    n_out: int
    activation: str
    """What turns its numbers into probabilities, such as Softmax; empty for none."""
    output: str
    """The graph's output behind it."""


@dataclass
class _Walk:
    """What was met between an output and the layer it comes from."""

    activation: str = ""
    is_pooled: bool = False
    is_activated: bool = False
    has_bias: bool = False


def find_classifier(survey: Survey, output: str) -> Classifier | None:
    """Walk back from `output` to a last layer of weights; None where the output is features already."""
    walk, current = _Walk(), output
    while (node := survey.makers.get(current)) is not None:
        inputs = survey.picture_inputs(node)
        if node.op_type in WEIGHTED:
            return _judged(survey, node, walk, output) if len(inputs) == 1 else None
        if not inputs or not _goes_on(node, len(inputs), walk):
            return None
        current = inputs[0]
    return None


def looks_like_features(name: str) -> bool:
    return bool(_EMBEDDING_NAME.search(name))


def _goes_on(node: Any, n_inputs: int, walk: _Walk) -> bool:
    """Whether a last layer may still come before this node; what it does is noted in `walk`."""
    if n_inputs != 1:
        return False
    if node.op_type in _PROBABILITIES:
        walk.activation = node.op_type
    elif node.op_type in _POOLS:
        walk.is_pooled = True
    elif node.op_type in ACTIVATIONS:
        walk.is_activated = True
    elif node.op_type in _WITH_A_CONSTANT:
        walk.has_bias = walk.has_bias or node.op_type.endswith("Add")
    else:
        return node.op_type in _PASSES_ON
    return True


def _judged(survey: Survey, node: Any, walk: _Walk, output: str) -> Classifier | None:
    source = survey.picture_inputs(node)[0]
    if source not in survey.tensors or node.output[0] not in survey.tensors:
        return None
    is_convolution = node.op_type in CONVOLUTIONS
    before, after = survey.tensors[source].shape, survey.tensors[node.output[0]].shape
    n_in = before[1] if is_convolution else before[-1]
    n_out = after[1] if is_convolution else after[-1]
    if is_convolution:
        fits = _ends_a_convolutional_classifier(node, walk, n_in, n_out, is_flat=set(after[2:]) == {1})
    else:
        fits = not walk.is_activated and not walk.is_pooled and len(after) == 2
        fits = fits and not _is_projection(node, walk, n_out, output)
    if not fits:
        return None
    features = _before(source, survey)
    name = node.name or node.output[0]
    return Classifier(features, name, node.op_type, n_in, n_out, walk.activation, output)


def _ends_a_convolutional_classifier(node: Any, walk: _Walk, n_in: int, n_out: int, *, is_flat: bool) -> bool:
    """A 1x1 convolution before the last pooling ends SqueezeNet, which is cut, and MobileNetV2's features."""
    if is_flat and not walk.is_pooled:
        return not walk.is_activated
    kernel = next((list(a.ints) for a in node.attribute if a.name == "kernel_shape"), [1, 1])
    if not walk.is_pooled or set(kernel) != {1}:
        return False
    return bool(walk.activation) or n_out in _USUAL_CLASSES or n_out <= n_in


def _is_projection(node: Any, walk: _Walk, n_out: int, output: str) -> bool:
    """Whether this last layer makes an embedding (CLIP's projection has no bias) and no classes."""
    if walk.activation or n_out in _USUAL_CLASSES:
        return False
    if looks_like_features(output):
        return True
    has_bias = walk.has_bias or "Gemm" in node.op_type or len(node.input) > 8
    return not has_bias and n_out >= _NARROWEST_EMBEDDING


def _before(tensor: str, survey: Survey) -> str:
    """Without layers that do nothing when a network is used, and without scales taken over the batch."""
    while (node := survey.makers.get(tensor)) is not None and node.op_type in _BEFORE_CLASSIFIER:
        source = survey.picture_inputs(node)
        if not source or source[0] not in survey.tensors:
            break
        tensor = source[0]
    return tensor
