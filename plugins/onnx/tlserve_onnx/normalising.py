"""Does a graph normalise its picture by itself? What stands first in it says which numbers it expects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import numpy_helper

from .survey import Survey

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
_SKIPPED = ("Cast", "Transpose", "Identity", "QuantizeLinear", "DequantizeLinear")
_STEPS = ("Add", "Sub", "Mul", "Div")
_WIDEST_NORMALISED = 20.0
_UNIT_CENTRE = 1.5

Three = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Normalisation:
    """What to write as mean and std, and why."""

    mean: Three
    std: Three
    reason: str
    is_certain: bool
    """False: a guess that a person has to check."""


def normalisation_of(survey: Survey, model: Any) -> Normalisation:
    """From the type of the input and the first operators of the graph."""
    as_they_are: tuple[Three, Three] = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    if survey.takes_pixels:
        return Normalisation(*as_they_are, "the input is uint8: it takes the pixels as they are", True)
    found = _first_steps(survey, _constants(model))
    if found is None:
        return Normalisation(
            IMAGENET_MEAN, IMAGENET_STD, "a guess (ImageNet's): the graph does not tell", False
        )
    factor, offset, operators = found
    centre = -offset / factor
    steps = f"the graph normalises by itself ({', '.join(operators)})"
    if np.abs(factor).max() * 255 <= _WIDEST_NORMALISED or np.abs(centre).max() > _UNIT_CENTRE:
        return Normalisation(*as_they_are, f"{steps} and expects pixels from 0 to 255", True)
    return Normalisation((0.0, 0.0, 0.0), (255.0, 255.0, 255.0), f"{steps} and expects 0 to 1", True)


def _first_steps(
    survey: Survey, constants: Mapping[str, npt.NDArray[np.float64]]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], list[str]] | None:
    """The picture x becomes factor * x + offset before the first layer; None if nothing is done to it."""
    factor, offset = np.ones(1), np.zeros(1)
    operators: list[str] = []
    current = survey.input
    while len(readers := survey.readers.get(current, ())) == 1:
        node = survey.nodes[readers[0]]
        step = _step(node, current, constants)
        if step is not None:
            factor, offset = factor * step[0], offset * step[0] + step[1]
            operators.append(node.op_type)
        elif node.op_type not in _SKIPPED:
            break
        current = node.output[0]
    return (factor, offset, operators) if operators else None


def _step(
    node: Any, current: str, constants: Mapping[str, npt.NDArray[np.float64]]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
    """One operator as (factor, offset) for each channel."""
    if node.op_type == "BatchNormalization" and all(name in constants for name in node.input[1:5]):
        scale, bias, mean, variance = (constants[name] for name in node.input[1:5])
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        factor = scale / np.sqrt(variance + epsilon)
        return (factor, bias - mean * factor) if factor.size == 3 else None
    if node.op_type not in _STEPS or len(node.input) != 2 or node.input[0] != current:
        return _swapped(node, current, constants)
    value = constants.get(node.input[1])
    if value is None or (node.op_type == "Div" and not value.all()):
        return None
    if node.op_type in ("Add", "Sub"):
        return np.ones(1), value if node.op_type == "Add" else -value
    return (value if node.op_type == "Mul" else 1 / value), np.zeros(1)


def _swapped(
    node: Any, current: str, constants: Mapping[str, npt.NDArray[np.float64]]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
    """Sums and products may name the constant first."""
    if node.op_type not in ("Add", "Mul") or len(node.input) != 2 or node.input[1] != current:
        return None
    value = constants.get(node.input[0])
    if value is None:
        return None
    return (np.ones(1), value) if node.op_type == "Add" else (value, np.zeros(1))


def _constants(model: Any) -> dict[str, npt.NDArray[np.float64]]:
    """Tensors of one or three numbers, as float64 without axes."""
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            held[node.output[0]] = node.attribute[0].t
    return {
        name: numpy_helper.to_array(tensor).astype(np.float64).reshape(-1)
        for name, tensor in held.items()
        if int(np.prod(tensor.dims)) in (1, 3)
    }
