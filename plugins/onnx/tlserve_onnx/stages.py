"""Which tensors are the ends of a network's stages: good taps besides `features`.

A stage can only end where everything passes through one tensor: behind a residual block, never inside
one. Of these tensors the last at each resolution is taken, or, in a network of one resolution (a vision
transformer), the ends of every few blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .classifier import ACTIVATIONS, CONVOLUTIONS, SIGMOIDS, WEIGHTED
from .layouts import channel_axes
from .survey import Survey, Tensor

MOST_STAGES = 4
_POOLS = ("MaxPool", "AveragePool", "QLinearAveragePool")
_SUMS = ("Add", "QLinearAdd", "Sum")
_JOINS = ("Concat", "QLinearConcat")
_ENOUGH_DEEP_STAGES = 2
_FIRST_DEEP_STRIDE = 4


@dataclass(frozen=True, slots=True)
class Stage:
    """A tensor at which a stage ends."""

    tensor: str
    reason: str
    is_proposed: bool


class Way:
    """The tensors through which everything passes on the way from the picture to `features`."""

    def __init__(self, survey: Survey, features: str) -> None:
        self.survey, self.features = survey, features
        self.axes = channel_axes(survey)
        self._on_way = _leading_to(survey, features)
        self.narrows = [tensor for tensor in self._narrows() if not tensor.is_split]
        self.width = self.channels(survey.tensors[features])
        layers = [
            tensor
            for tensor in survey.tensors.values()
            if tensor.name in self._on_way and survey.nodes[tensor.place].op_type in WEIGHTED
        ]
        self.first_weights = layers[0].place if layers else -1
        self.has_dense_layers = bool(layers) and self.size(layers[-1]) is None and len(layers[-1].shape) != 3

    def size(self, tensor: Tensor) -> tuple[int, int] | None:
        """Height and width of a feature map; None for anything else."""
        if len(tensor.shape) != 4:
            return None
        height, width = (s for axis, s in enumerate(tensor.shape) if axis not in (0, self.axes[tensor.name]))
        # Windows of a transformer have other proportions than the picture.
        is_picture = abs(height * self.survey.width - width * self.survey.height) <= max(
            self.survey.height, self.survey.width
        )
        return (height, width) if max(height, width) > 1 and is_picture else None

    def channels(self, tensor: Tensor) -> int:
        return tensor.shape[self.axes[tensor.name]]

    def readers(self, tensor: str) -> list[Any]:
        """The nodes on the way that read a tensor."""
        nodes = self.survey.nodes
        return [
            nodes[n]
            for n in self.survey.readers.get(tensor, ())
            if self._on_way.intersection(nodes[n].output)
        ]

    def settled(self, tensor: Tensor) -> Tensor:
        """The same numbers as the network goes on with them: in a quantised graph behind the quantisation."""
        readers = self.readers(tensor.name)
        if tensor.is_float and readers and all(node.op_type == "QuantizeLinear" for node in readers):
            tensor = self.survey.tensors[readers[0].output[0]]
            readers = self.readers(tensor.name)
        for node in readers:
            if not tensor.is_float and node.op_type == "DequantizeLinear":
                return self.survey.tensors[node.output[0]]
        return tensor

    def _narrows(self) -> Iterator[Tensor]:
        """Sweep over the graph; where one tensor alone is still to be read, everything passes through it."""
        last_use: dict[str, int] = {}
        for number, node in enumerate(self.survey.nodes):
            if self._on_way.intersection(node.output):
                last_use.update(dict.fromkeys(self.survey.picture_inputs(node), number))
        last_use[self.features] = len(self.survey.nodes)
        live: set[str] = {self.survey.input}
        for number, node in enumerate(self.survey.nodes):
            made = self._on_way.intersection(node.output)
            if not made:
                continue
            live = {name for name in live if last_use.get(name, -1) > number} | made
            if len(live) == 1 and made == live:
                yield self.survey.tensors[next(iter(made))]


def stages_of(survey: Survey, features: str) -> list[Stage]:
    """Ends of stages before `features`, shallow to deep; those not proposed are there to be chosen."""
    way = Way(survey, features)
    n_tokens = sum(len(tensor.shape) == 3 for tensor in way.narrows)
    found = _by_resolution(way) if n_tokens * 2 < len(way.narrows) else []
    return found if any(stage.is_proposed for stage in found) else _by_depth(way)


def _by_resolution(way: Way) -> list[Stage]:
    groups: dict[tuple[int, int], list[Tensor]] = {}
    for tensor in way.narrows:
        size = way.size(tensor)
        if size is not None and tensor.place > way.first_weights and tensor.name != way.features:
            groups.setdefault(size, []).append(tensor)
    ends: dict[str, tuple[tuple[int, int], Tensor]] = {}
    for size, group in groups.items():
        ends_here = [tensor for tensor in group if _ends_a_block(way, tensor)]
        if any(way.survey.nodes[tensor.place].op_type in _JOINS for tensor in ends_here):
            # Where branches are joined a convolution to fewer channels begins a block (SqueezeNet).
            ends_here = [tensor for tensor in ends_here if _joins_branches(way, tensor)]
        block_ends = ends_here or group[-1:]
        if size == list(groups)[-1] and not way.has_dense_layers:
            # The average of the last maps is `features`, or nearly so.
            block_ends = [tensor for tensor in block_ends if way.channels(tensor) < way.width]
        if block_ends:
            end = _behind_pooling(way, _behind_activation(way, block_ends[-1]))
            if not any(_is_pooled(way, end, other) for _, other in ends.values()):
                ends.setdefault(end.name, (size, end))
    return _chosen(way, list(ends.values())) if len(groups) > 1 else []


def _ends_a_block(way: Way, tensor: Tensor) -> bool:
    """A sum or a joining of branches, or a 1x1 convolution to fewer channels without an activation.

    What comes behind in the same resolution is the widened inside of the next block.
    """
    if _joins_branches(way, tensor):
        return True
    node = way.survey.nodes[tensor.place]
    inputs = way.survey.picture_inputs(node)
    readers = way.readers(way.settled(tensor).name)
    if any(reader.op_type in (*ACTIVATIONS, *SIGMOIDS, "BatchNormalization") for reader in readers):
        return False
    if node.op_type == "BatchNormalization":
        node = way.survey.makers.get(inputs[0], node)
        inputs = way.survey.picture_inputs(node)
    if node.op_type not in CONVOLUTIONS or inputs[0] not in way.survey.tensors:
        return False
    return tensor.shape[1] <= way.survey.tensors[inputs[0]].shape[1]


def _joins_branches(way: Way, tensor: Tensor) -> bool:
    node = way.survey.nodes[tensor.place]
    return node.op_type in (*_SUMS, *_JOINS) and len(way.survey.picture_inputs(node)) > 1


def _behind_activation(way: Way, tensor: Tensor) -> Tensor:
    readers = way.readers(tensor.name)
    if len(readers) == 1 and readers[0].op_type in ACTIVATIONS and readers[0].output[0] != way.features:
        return way.survey.tensors[readers[0].output[0]]
    return tensor


def _chosen(way: Way, ends: Sequence[tuple[tuple[int, int], Tensor]]) -> list[Stage]:
    height = way.survey.height
    deep = [end.name for size, end in ends if size[0] * _FIRST_DEEP_STRIDE <= height + 3 * _FIRST_DEEP_STRIDE]
    names = deep if len(deep) >= _ENOUGH_DEEP_STAGES else [end.name for _, end in ends]
    proposed = names[-MOST_STAGES:]
    stages = []
    for size, end in ends:
        where = f"stage end at {size[0]}x{size[1]}"
        if way.size(end) != size:
            where += ", pooled"
        if end.name not in proposed:
            where += "; too early"
        stages.append(Stage(way.settled(end).name, where, end.name in proposed))
    return stages


def _behind_pooling(way: Way, tensor: Tensor) -> Tensor:
    """Where a pooling ends the stage (VGG), its output: fewer numbers that say the same."""
    readers = way.readers(tensor.name)
    if len(readers) == 1 and readers[0].op_type in _POOLS:
        pooled = way.survey.tensors[readers[0].output[0]]
        if pooled.name != way.features and way.size(pooled) is not None and max(pooled.shape[2:]) > 1:
            return pooled
    return tensor


def _is_pooled(way: Way, tensor: Tensor, other: Tensor) -> bool:
    """Whether `tensor` is `other`, or only poolings lie between them."""
    current = tensor.name
    while current != other.name:
        node = way.survey.makers.get(current)
        if node is None or node.op_type not in (*_POOLS, "Identity"):
            return False
        current = way.survey.picture_inputs(node)[0]
    return True


def _by_depth(way: Way) -> list[Stage]:
    """Ends of blocks: every second sum of a residual network, since a block has two of them."""
    sums = [
        tensor
        for tensor in way.narrows
        if way.survey.nodes[tensor.place].op_type in _SUMS
        and len(way.survey.picture_inputs(way.survey.nodes[tensor.place])) > 1
        and len(tensor.shape) in (3, 4)
        and tensor.name != way.features
    ]
    blocks = sums[1::2] if len(sums) % 2 == 0 and len(sums) > 2 else sums
    if len(blocks) < 2:
        return []
    wanted = {round(len(blocks) * quarter / 4) for quarter in range(1, MOST_STAGES + 1)}
    if not _takes_one_token(way, blocks[-1]):
        wanted.discard(len(blocks))
    kind = "tokens" if len(blocks[0].shape) == 3 else "map"
    return [
        Stage(way.settled(block).name, f"{kind} after block {number} of {len(blocks)}", number in wanted)
        for number, block in enumerate(blocks, start=1)
    ]


def _takes_one_token(way: Way, last: Tensor) -> bool:
    """Whether `features` are one token of the last block, which its average does not equal."""
    between = {
        node.op_type
        for node in way.survey.nodes[last.place + 1 :]
        if not set(way.survey.tensors).isdisjoint(node.output)
    }
    return bool(between & {"Gather", "Slice", "GatherElements"}) and len(last.shape) == 3


def _leading_to(survey: Survey, features: str) -> set[str]:
    """Names of the tensors that `features` are computed from, itself included."""
    wanted = {features}
    for node in reversed(survey.nodes):
        if wanted.intersection(node.output):
            wanted.update(name for name in survey.picture_inputs(node) if name in survey.tensors)
    return wanted
