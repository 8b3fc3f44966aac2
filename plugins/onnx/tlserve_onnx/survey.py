"""The whole graph run once on drawn pictures, so that the shape of every tensor is known and not guessed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tlserve.plugin_api import BackboneError, Layout

from .graph import described_input, free_reshapes, image_inputs, static_shape, takes_pixels
from .reading import lowest_ir_version, reads
from .running import drawn_pictures, first_line, session_of

_SIDES = (224, 256, 384, 299, 192, 160, 128, 96, 64, 32, 112, 240, 260, 300, 320, 380, 448, 512)
"""Tried in this order where the file leaves the size free; a transformer takes one of them only."""
_NUMBERS = ("tensor(float)", "tensor(double)", "tensor(uint8)", "tensor(int8)", "tensor(int32)")

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """Numbers that the graph computes for each picture."""

    name: str
    shape: Shape
    """For one picture: (1, ...). Tensors that mix pictures on their first axis are marked by `is_split`."""
    is_float: bool
    is_split: bool
    """The first axis is not the pictures' (windows of a transformer, for example)."""
    place: int
    """Number of the node that makes it, in the order of `Survey.nodes`."""


@dataclass(frozen=True)
class Survey:
    """What one run tells about the part of a graph that depends on the picture alone."""

    input: str
    layout: Layout
    height: int
    width: int
    size_is_free: bool
    takes_pixels: bool
    nodes: tuple[Any, ...]
    tensors: Mapping[str, Tensor]
    """By name, shallow to deep: what grows with the number of pictures."""
    outputs: tuple[str, ...]
    """Of the graph, those that depend on the picture alone."""
    batch_problem: str
    """Why two pictures cannot be run at once; empty if they can."""
    batch_was_fixed: bool

    @cached_property
    def makers(self) -> Mapping[str, Any]:
        """The node that makes each tensor."""
        return {name: node for node in self.nodes for name in node.output if name}

    @cached_property
    def readers(self) -> Mapping[str, Sequence[int]]:
        """Numbers of the nodes that read each tensor."""
        found: dict[str, list[int]] = {}
        for number, node in enumerate(self.nodes):
            for name in dict.fromkeys(reads(node)):
                found.setdefault(name, []).append(number)
        return found

    def picture_inputs(self, node: Any) -> list[str]:
        """What a node reads of the picture, without weights, scales and shapes."""
        return [name for name in dict.fromkeys(reads(node)) if name in self.tensors or name == self.input]


def picture_input(model: Any) -> Any:
    """The input that takes the picture. Raises BackboneError, naming the inputs there are."""
    values = list(image_inputs(model).values())
    fitting = [value for value in values if len(static_shape(value)) == 4 or not static_shape(value)]
    by_channels = [value for value in fitting if 3 in (static_shape(value)[1:2] + static_shape(value)[3:4])]
    free = [
        value
        for value in fitting
        if not static_shape(value) or not all(isinstance(static_shape(value)[axis], int) for axis in (1, 3))
    ]
    if chosen := by_channels or free:
        return chosen[0]
    listed = ", ".join(described_input(value) for value in values) or "none"
    raise BackboneError(
        f"no input of the graph takes a colour picture (four dimensions, 3 channels); its inputs: {listed}. "
        "Export the part of the model that sees the picture, with three channels"
    )


def survey(model: Any) -> Survey:
    """Run what depends on the picture alone; `model` may get its Reshapes mended for a free batch.

    model: as `reading.plain_model` gives it. Raises BackboneError where nothing runs.
    """
    value = picture_input(model)
    bytes_wanted = takes_pixels(value)
    shape = static_shape(value) or ["?", "?", "?", "?"]
    fixed = shape[0] if isinstance(shape[0], int) else 0
    probe = _Probe(model, value.name)
    layout, height, width = _first_size_that_runs(probe, shape)
    problem = _two_at_once(probe, layout, height, width)
    if problem:
        free_reshapes(model, fixed or 1)
        mended = _Probe(model, value.name)
        still = _two_at_once(mended, layout, height, width)
        probe, problem = (probe, still) if still else (mended, "")
    batch = fixed or 1
    one = probe.shapes(batch if problem else 1, layout, height, width)
    two = one if problem else probe.shapes(2, layout, height, width)
    return Survey(
        input=value.name,
        layout=layout,
        height=height,
        width=width,
        size_is_free=not all(isinstance(side, int) for side in _sides(shape, layout)),
        takes_pixels=bytes_wanted,
        nodes=probe.nodes,
        tensors={tensor.name: tensor for tensor in _tensors(probe, one, two, batch if problem else 0)},
        outputs=tuple(output.name for output in model.graph.output if output.name in probe.types),
        batch_problem=problem,
        batch_was_fixed=fixed > 0,
    )


class _Probe:
    """The graph with the shape of every tensor as its outputs, which costs no memory for the tensors."""

    def __init__(self, model: Any, input_name: str) -> None:
        self._model, self._value = model, image_inputs(model)[input_name]
        self.nodes = tuple(_image_only(model, input_name))
        self.outputs = {value.name for value in model.graph.output}
        names = [name for node in self.nodes for name in node.output if name]
        typed = session_of(self._graph(self.nodes, names, with_weights=False)).get_outputs()
        self.types = {output.name: output.type for output in typed}
        self._names = [name for name in names if self.types.get(name) in _NUMBERS]
        shapes = [
            helper.make_node("Shape", [name], [f"shape of {number}"])
            for number, name in enumerate(self._names)
        ]
        ends = [node.output[0] for node in shapes]
        self._session = session_of(self._graph((*self.nodes, *shapes), ends, with_weights=True))

    def shapes(self, n: int, layout: Layout, height: int, width: int) -> dict[str, Shape]:
        """Of every tensor of numbers, for n pictures. Raises BackboneError if the graph does not run."""
        pictures = drawn_pictures(n, height, width)
        if layout == "NCHW":
            pictures = np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))
        element = helper.tensor_dtype_to_np_dtype(self._value.type.tensor_type.elem_type)
        try:
            found = self._session.run(None, {self._value.name: pictures.astype(element)})
        except Exception as exc:  # onnxruntime raises a class of its own for each status
            raise BackboneError(f"the graph does not run: {first_line(exc)}") from exc
        return {
            name: tuple(int(side) for side in shape) for name, shape in zip(self._names, found, strict=True)
        }

    def _graph(self, nodes: Sequence[Any], outputs: Sequence[str], *, with_weights: bool) -> Any:
        source = onnx.ValueInfoProto()
        source.CopyFrom(self._value)
        for dim in source.type.tensor_type.shape.dim[:1]:
            dim.dim_param = "N"
        needed = {name for node in nodes for name in reads(node)}
        held = [tensor for tensor in self._model.graph.initializer if tensor.name in needed]
        # For the types alone large weights are left out: they become inputs.
        absent = [] if with_weights else [tensor for tensor in held if math.prod(tensor.dims) > 1000]
        graph = helper.make_graph(
            nodes,
            "probe",
            [source, *(helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in absent)],
            [onnx.ValueInfoProto(name=name) for name in outputs],
            [tensor for tensor in held if with_weights or math.prod(tensor.dims) <= 1000],
            sparse_initializer=[s for s in self._model.graph.sparse_initializer if s.values.name in needed],
        )
        opsets = list(self._model.opset_import)
        return helper.make_model(graph, ir_version=lowest_ir_version(self._model), opset_imports=opsets)


def _image_only(model: Any, input_name: str) -> Iterator[Any]:
    """Nodes that need no other input, in the graph's order."""
    others = set(image_inputs(model)) - {input_name}
    for node in model.graph.node:
        if others.isdisjoint(reads(node)):
            yield node
        else:
            others.update(node.output)


def _first_size_that_runs(probe: _Probe, shape: Sequence[int | str]) -> tuple[Layout, int, int]:
    n = shape[0] if isinstance(shape[0], int) else 1
    problems = []
    for layout in _layouts(shape):
        fixed = [side for side in _sides(shape, layout) if isinstance(side, int)]
        for side in fixed[:1] or _SIDES:
            height, width = (s if isinstance(s, int) else side for s in _sides(shape, layout))
            try:
                probe.shapes(n, layout, height, width)
            except BackboneError as exc:
                problems.append(exc)
            else:
                return layout, height, width
    raise problems[0]


def _layouts(shape: Sequence[int | str]) -> tuple[Layout, ...]:
    if shape[1] == 3:
        return ("NCHW",)
    return ("NHWC",) if shape[3] == 3 else ("NCHW", "NHWC")


def _sides(shape: Sequence[int | str], layout: Layout) -> Sequence[int | str]:
    return shape[2:4] if layout == "NCHW" else shape[1:3]


def _two_at_once(probe: _Probe, layout: Layout, height: int, width: int) -> str:
    """What is wrong with two pictures in one batch; empty for nothing."""
    try:
        one, two = (probe.shapes(n, layout, height, width) for n in (1, 2))
    except BackboneError as exc:
        return str(exc)
    made = probe.outputs & set(two)
    if made and all(np.prod(two[name]) == np.prod(one[name]) for name in made):
        return "the graph gives as much for one picture as for two"
    for name in made:
        if np.prod(two[name]) == 2 * np.prod(one[name]) and two[name][0] != 2 * one[name][0]:
            return (
                f"the output {name} has shape {list(one[name])} for one picture and {list(two[name])} for two"
            )
    return ""


def _tensors(
    probe: _Probe, one: Mapping[str, Shape], two: Mapping[str, Shape], fixed_batch: int
) -> Iterator[Tensor]:
    """What grows with the pictures; where only one batch size runs, what has it as its first axis."""
    for place, node in enumerate(probe.nodes):
        for name in node.output:
            shape = one.get(name, ())
            if not shape:
                continue
            grows = shape[0] == fixed_batch if fixed_batch else np.prod(two[name]) == 2 * np.prod(shape)
            if not grows or not np.prod(shape):
                continue
            is_split = not fixed_batch and (shape[0] != 1 or two[name] != (2, *shape[1:]))
            is_float = probe.types[name] in ("tensor(float)", "tensor(double)")
            yield Tensor(name, (1, *shape[1:]) if fixed_batch else shape, is_float, is_split, place)
