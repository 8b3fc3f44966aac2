"""A backbone cut in two: what stays as it is, which runs once for each picture, and what learns.

The cut is found in the network's own graph, so that any architecture will do: whatever depends on a
parameter that learns is the tuned part; the frozen part gives what the tuned part reads of the rest. A
network whose graph cannot be drawn, or cut, is tuned whole: slower, for the same result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils._pytree import tree_unflatten

from tlserve.plugin_api import LAST_TAP, ImageSpec, TrainableModule

CHECK_TOLERANCE = 1e-4
"""Largest difference between both parts in turn and the whole, relative to the largest feature."""
_N_EXAMPLES = 3


class CannotCut(Exception):
    """Why a network's graph does not come apart, in words."""


@dataclass(frozen=True)
class Cut:
    """Both parts share the parameters of the module they were cut from: tuning them tunes that module."""

    frozen: nn.Module | None
    """[N, ...] normalised input to a tuple of activations, each [N, ...]; None where all of it learns."""
    tuned: nn.Module
    """The activations (or the input) to `features`, [N, width]."""
    shapes: tuple[tuple[int, ...], ...]
    """Of what the tuned part reads, without N."""
    learning: tuple[tuple[nn.Parameter, ...], ...]
    """The parameters that learn, by block, from shallow to deep; never an empty block."""
    why_whole: str = ""
    """Why nothing runs only once, where that is so."""

    @property
    def n_numbers(self) -> int:
        """Of the activations of one picture."""
        return sum(torch.Size(shape).numel() for shape in self.shapes)


def cut(trainable: TrainableModule, image: ImageSpec, n_blocks: int) -> Cut:
    """The network of `trainable`, in inference mode, cut below its last `n_blocks` blocks.

    `requires_grad` is set on the parameters of those blocks and taken from all others. Batch norms keep
    their statistics, and dropout is off: both parts are the network as it infers.
    """
    # Processors convolve fastest with the channels side by side: 2.5 times with MobileNetV2.
    module = trainable.module.eval().to(memory_format=torch.channels_last)
    learning = _unfreeze(trainable, n_blocks)
    shape = input_shape(image)
    if n_blocks >= len(trainable.blocks):
        return _whole(module, image, learning, "every block learns")
    try:
        found = _cut_graph(_exported(module, shape), learning)
        found = dataclasses.replace(found, tuned=_Pooled(found.tuned, image))
        _check(found, module, image, shape)
    except CannotCut as exc:
        return _whole(module, image, learning, str(exc))
    except Exception as exc:  # torch.export raises whatever the network's own code trips over
        reason = str(exc).strip().splitlines() or [type(exc).__name__]
        return _whole(module, image, learning, f"torch.export: {reason[0][:200]}")
    return found


def whole_in_training(trainable: TrainableModule, image: ImageSpec) -> Cut:
    """All of the network, in training mode whenever it is trained: batch norms learn their statistics."""
    learning = _unfreeze(trainable, len(trainable.blocks))
    return _whole(trainable.module, image, learning, "it learns from random weights")


def input_shape(image: ImageSpec) -> tuple[int, ...]:
    """Of one normalised picture."""
    if image.layout == "NHWC":
        return image.height, image.width, 3
    return 3, image.height, image.width


def pooled(activations: Tensor, image: ImageSpec) -> Tensor:
    """A tap's activations as [N, width]: maps are averaged over space."""
    if activations.ndim != 4:
        return activations
    return activations.mean((1, 2) if image.layout == "NHWC" else (2, 3))


class Features(nn.Module):
    """A whole network, of which only the last tap is wanted."""

    def __init__(self, module: nn.Module, image: ImageSpec) -> None:
        super().__init__()
        self.module = module
        self._image = image

    def forward(self, pictures: Tensor) -> Tensor:
        return pooled(self.module(pictures)[LAST_TAP], self._image)


class _Pooled(nn.Module):
    def __init__(self, tuned: nn.Module, image: ImageSpec) -> None:
        super().__init__()
        self.tuned = tuned
        self._image = image

    def forward(self, *activations: Tensor) -> Tensor:
        return pooled(self.tuned(*activations), self._image)


def _unfreeze(trainable: TrainableModule, n_blocks: int) -> tuple[tuple[nn.Parameter, ...], ...]:
    trainable.module.requires_grad_(False)
    seen: set[int] = set()
    blocks = []
    for block in reversed(trainable.blocks[-n_blocks:]):
        parameters = tuple(p for p in block.parameters() if p.is_floating_point() and id(p) not in seen)
        seen |= {id(p) for p in parameters}
        blocks.append(parameters)
    for parameter in (p for block in blocks for p in block):
        parameter.requires_grad_(True)
    return tuple(block for block in reversed(blocks) if block)


def _whole(
    module: nn.Module, image: ImageSpec, learning: tuple[tuple[nn.Parameter, ...], ...], why: str
) -> Cut:
    return Cut(None, Features(module, image), (input_shape(image),), learning, why)


def _exported(module: nn.Module, shape: tuple[int, ...]) -> ExportedProgram:
    """The network's graph for any number of pictures, in which no value changes under its readers."""
    example = torch.zeros(2, *shape, device=next(module.parameters()).device)
    with torch.no_grad():
        program = torch.export.export(
            module, (example,), dynamic_shapes=({0: torch.export.Dim("N")},), strict=False
        )
    if any(_rewrites_what_others_read(node) for node in program.graph.nodes):
        program = program.run_decompositions({})
    return program


def _rewrites_what_others_read(node: fx.Node) -> bool:
    """Whether the order of the nodes matters beyond what they read of each other."""
    schema = _schema(node)
    if schema is None or not schema.is_mutable:
        return False
    if not node.users:
        return True
    source: fx.Node | None = node.all_input_nodes[0]
    while source is not None:
        if len(source.users) > 1 or source.op == "placeholder":
            return True
        of_source = _schema(source)
        is_view = of_source is not None and any(given.alias_info for given in of_source.returns)
        source = source.all_input_nodes[0] if is_view else None
    return False


def _schema(node: fx.Node) -> torch.FunctionSchema | None:
    is_operator = node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload)
    return node.target._schema if is_operator else None  # type: ignore[union-attr]


def _cut_graph(program: ExportedProgram, learning: tuple[tuple[nn.Parameter, ...], ...]) -> Cut:
    ids = {id(parameter) for block in learning for parameter in block}
    held = _held_tensors(program)
    (picture,) = (node for node in program.graph.nodes if node.op == "placeholder" and node.name not in held)
    features = _features_node(program)
    learns = _with_descendants(node for node in _placeholders(program) if id(held.get(node.name)) in ids)
    if features not in learns:
        raise CannotCut("the features do not depend on the blocks that learn")
    boundary = _boundary(features, learns, picture)
    tuned, frozen = _part(held, boundary, features), _part(held, [picture], boundary)
    shapes = tuple(tuple(int(side) for side in node.meta["val"].shape[1:]) for node in boundary)
    return Cut(frozen, tuned, shapes, learning)


def _placeholders(program: ExportedProgram) -> Iterable[fx.Node]:
    return (node for node in program.graph.nodes if node.op == "placeholder")


def _held_tensors(program: ExportedProgram) -> dict[str, Any]:
    """Parameters, buffers and constants by the names of their nodes."""
    held: dict[str, Any] = {}
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT or spec.target is None:
            continue
        place: Mapping[str, Any] = (
            program.state_dict if spec.target in program.state_dict else program.constants
        )
        held[spec.arg.name] = place[spec.target]
    return held


def _features_node(program: ExportedProgram) -> fx.Node:
    (output,) = (node for node in program.graph.nodes if node.op == "output")
    by_name = {node.name: node for node in output.all_input_nodes}
    outputs = [by_name[str(name)] for name in program.graph_signature.user_outputs]
    taps: dict[str, fx.Node] = tree_unflatten(outputs, program.call_spec.out_spec)
    return taps[LAST_TAP]


def _with_descendants(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    found: set[fx.Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(node.users)
    return found


def _boundary(features: fx.Node, learns: set[fx.Node], picture: fx.Node) -> list[fx.Node]:
    """The frozen activations that the tuned part reads, in the order in which they come to be.

    Numbers of pictures, masks and whatever else does not have one row for each picture are not among them:
    the tuned part works them out for itself.
    """
    of_pictures = _with_descendants([picture])
    n_pictures = str(picture.meta["val"].shape[0])
    found: set[fx.Node] = set()
    seen: set[fx.Node] = set()
    waiting = [features]
    while waiting:
        node = waiting.pop()
        if node in seen or node not in of_pictures or _is_batch_size(node):
            continue
        seen.add(node)
        value = node.meta.get("val")
        has_rows = isinstance(value, Tensor) and [str(side) for side in value.shape[:1]] == [n_pictures]
        if has_rows and node not in learns:
            found.add(node)
        else:
            waiting.extend(node.all_input_nodes)
    if not found:
        raise CannotCut("nothing below the cut depends on the picture")
    return [node for node in picture.graph.nodes if node in found]


def _is_batch_size(node: fx.Node) -> bool:
    return node.target is torch.ops.aten.sym_size.int and bool(node.args[1] == 0)


def _part(
    held: Mapping[str, Any], given: Sequence[fx.Node], wanted: fx.Node | Sequence[fx.Node]
) -> fx.GraphModule:
    """What leads from `given` to `wanted`, as a module of its own: one value, or a tuple of them."""
    outputs = [wanted] if isinstance(wanted, fx.Node) else list(wanted)
    needed = _between(given, outputs)
    graph, used = fx.Graph(), dict[str, Any]()
    copies = {node: graph.placeholder(f"given{position}") for position, node in enumerate(given)}
    for node in outputs[0].graph.nodes:
        if node not in needed:
            continue
        if node.op == "placeholder":
            used[f"held_{node.name}"] = held[node.name]
            copies[node] = graph.get_attr(f"held_{node.name}")
        elif _is_batch_size(node):
            copies[node] = graph.call_function(torch.ops.aten.sym_size.int, (copies[given[0]], 0))
        else:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    results = tuple(copies[node] for node in outputs)
    graph.output(results[0] if isinstance(wanted, fx.Node) else results)
    return fx.GraphModule(used, graph)


def _between(given: Sequence[fx.Node], wanted: Sequence[fx.Node]) -> set[fx.Node]:
    """The nodes to work out, `given` not among them."""
    found: set[fx.Node] = set()
    waiting = list(wanted)
    while waiting:
        node = waiting.pop()
        if node in found or node in given:
            continue
        found.add(node)
        if not _is_batch_size(node):
            waiting.extend(node.all_input_nodes)
    return found


def _check(found: Cut, module: nn.Module, image: ImageSpec, shape: tuple[int, ...]) -> None:
    """Raises CannotCut unless both parts, one after the other, give the network's own features."""
    assert found.frozen is not None
    parameter = next(module.parameters())
    draw = torch.Generator().manual_seed(0)
    pictures = torch.randn(_N_EXAMPLES, *shape, generator=draw).to(parameter.device)
    with torch.no_grad():
        expected = Features(module, image)(pictures)
        features = found.tuned(*found.frozen(pictures))
    error = float((features - expected).abs().max())
    if not error <= CHECK_TOLERANCE * float(expected.abs().max()):
        raise CannotCut(f"its two parts give features that differ by {error:.3g} from the whole network's")
