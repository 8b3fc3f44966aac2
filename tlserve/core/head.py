"""A head is data: at most two layers, a link, a temperature, labels, and a novelty scale.

Every way of training ends in this one form, so there is one numpy `apply` (here) and one ONNX export
(release), each tested against the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from tlserve.core.types import Features, Probabilities

Link = Literal["softmax", "sigmoid"]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Dense:
    """weight: (n_in, n_out) float32; bias: (n_out,) float32."""

    weight: Float32
    bias: Float32

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or self.bias.shape != self.weight.shape[1:]:
            raise ValueError(f"a layer of weight {self.weight.shape} cannot have bias {self.bias.shape}")

    @property
    def n_in(self) -> int:
        return int(self.weight.shape[0])

    @property
    def n_out(self) -> int:
        return int(self.weight.shape[1])

    def forward(self, rows: Float32) -> Float32:
        """(n, n_in) to (n, n_out), both float32."""
        return np.asarray(rows @ self.weight + self.bias, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Projection:
    """A first layer that nobody trained: standardised rows times a matrix that a seed names.

    mean, scale: (n_in,) float32, of the training rows. The matrix is the same for all heads of one seed and
    shape, so it is kept once in memory and never on disk.
    Source: McDonnell et al. 2023, "RanPAC".
    """

    mean: Float32
    scale: Float32
    seed: int
    n_out: int

    def __post_init__(self) -> None:
        if self.mean.ndim != 1 or self.mean.shape != self.scale.shape:
            raise ValueError("a projection needs a mean and a scale of one width")
        if self.n_out < 1 or self.seed < 0:
            raise ValueError(f"a projection needs an output and a seed, not {self.n_out} and {self.seed}")

    @property
    def n_in(self) -> int:
        return int(self.mean.shape[0])

    @property
    def weight(self) -> Float32:
        """(n_in, n_out) float32, read-only."""
        return projection_matrix(self.seed, self.n_in, self.n_out)

    def forward(self, rows: Float32) -> Float32:
        """(n, n_in) raw rows to (n, n_out), both float32."""
        return np.asarray(((rows - self.mean) / self.scale) @ self.weight, dtype=np.float32)


Layer = Dense | Projection


@lru_cache(maxsize=8)
def projection_matrix(seed: int, n_in: int, n_out: int) -> Float32:
    """(n_in, n_out) float32, read-only: +1 or -1 over sqrt(n_in), drawn from the seed.

    Signs are raw bits of PCG64, which numpy keeps the same for ever; its distributions it may change.
    Source: Achlioptas 2003, "Database-friendly random projections".
    """
    words = np.random.PCG64(seed).random_raw(-(-n_in * n_out // 64))
    bits = np.unpackbits(words.astype("<u8").view(np.uint8))[: n_in * n_out].reshape(n_in, n_out)
    matrix = (bits.astype(np.float32) * 2 - 1) / np.float32(np.sqrt(n_in))
    matrix.flags.writeable = False
    return np.asarray(matrix, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Novelty:
    """How far an image is from everything the model was trained on, as a rank among held-out images.

    centroids: (n_centroids, n_features) float32, unit length, of training rows less `mean` and over `scale`,
    each (n_features,) or (1,) float32.
    An image is as far as its cosine distance to the nearest centroid, and farther where the head is in
    doubt: by `doubt_weight` for each unit that its best class score stays below `sure_at`.
    distances: (n_quantiles,) float32, ascending; ranks: the same shape, ascending within [0, 1]. How far an
    image is gets read off that curve.
    """

    mean: Float32
    scale: Float32
    centroids: Float32
    distances: Float32
    ranks: Float32
    doubt_weight: float = 0.0
    sure_at: float = 0.0

    def __post_init__(self) -> None:
        fitting = ((1,), self.centroids.shape[1:])
        if self.centroids.ndim != 2 or self.mean.shape not in fitting or self.scale.shape not in fitting:
            raise ValueError("a novelty block needs a mean, a scale and centroids of one width")
        if self.distances.ndim != 1 or self.distances.shape != self.ranks.shape:
            raise ValueError("a novelty block needs one rank for each distance")

    @property
    def n_features(self) -> int:
        return int(self.centroids.shape[1])


@dataclass(frozen=True, eq=False)
class Head:
    """The trained part of a version."""

    labels: tuple[str, ...]
    taps: tuple[str, ...]
    """Which taps it reads, in this order, side by side."""
    layers: tuple[Layer, ...]
    """One or two; ReLU between. Any standardisation is folded into the first; the last one is dense."""
    link: Link = "softmax"
    temperature: float = 1.0
    novelty: Novelty | None = None

    def __post_init__(self) -> None:
        if len(self.layers) not in (1, 2):
            raise ValueError(f"a head has one or two dense layers, not {len(self.layers)}")
        last = self.layers[-1]
        if not isinstance(last, Dense) or last.n_out != len(self.labels):
            raise ValueError(f"{len(self.labels)} labels, but the last layer has {last.n_out} outputs")
        if self.layers[0].n_out != last.n_in and len(self.layers) == 2:
            raise ValueError("the second layer does not take what the first one gives")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("two columns of a head have the same label")
        if self.novelty is not None and self.novelty.n_features != self.n_features:
            raise ValueError(f"the novelty block is not as wide as the head's {self.n_features} features")
        if self.link not in ("softmax", "sigmoid"):
            raise ValueError(f"unknown link {self.link!r}")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"the temperature must be positive and finite, not {self.temperature}")

    @property
    def n_features(self) -> int:
        return self.layers[0].n_in


def logits(head: Head, features: Features) -> Float32:
    """Unscaled class scores, (n_images, n_classes) float32, before temperature and link."""
    hidden = features
    for index, layer in enumerate(head.layers):
        if index:
            hidden = np.maximum(hidden, 0)
        hidden = layer.forward(hidden)
    return hidden


def apply(head: Head, features: Features) -> Probabilities:
    """The head's answer for each row of features: (n_images, n_classes) float32, rows sum to 1."""
    return link_probabilities(logits(head, features), link=head.link, temperature=head.temperature)


def link_probabilities(scores: Float32, *, link: Link, temperature: float) -> Probabilities:
    """Class scores to probabilities: softmax, or one sigmoid per class normalised to sum to 1."""
    scaled = scores / np.float32(temperature)
    if link == "softmax":
        odds = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    else:
        odds = 1 / (1 + np.exp(-np.clip(scaled, -80, 80))) + np.float32(1e-12)
    return np.asarray(odds / odds.sum(axis=1, keepdims=True), dtype=np.float32)


def answers(head: Head, features: Features) -> tuple[Probabilities, Float32]:
    """`apply` and `novelty_scores` of the same rows; the class scores are worked out once."""
    scores = logits(head, features)
    probabilities = link_probabilities(scores, link=head.link, temperature=head.temperature)
    return probabilities, _novelty_of(head, features, scores)


def novelty_scores(head: Head, features: Features) -> Float32:
    """Novelty of each row in [0, 1]: 0.95 is farther than 95 % of held-out images. Zeros without a block."""
    return _novelty_of(head, features, logits(head, features))


def farness(novelty: Novelty, features: Features, scores: Float32) -> Float32:
    """How far each row is, before it becomes a rank: (n_images,) float32. scores: the head's logits."""
    distance = centroid_distance(novelty, features)
    if not novelty.doubt_weight:
        return distance
    doubt = np.maximum(np.float32(novelty.sure_at) - scores.max(axis=1), 0)
    return np.asarray(distance + np.float32(novelty.doubt_weight) * doubt, dtype=np.float32)


def centroid_distance(novelty: Novelty, features: Features) -> Float32:
    """Cosine distance of each row to its nearest centroid: (n_images,) float32 in [0, 2]."""
    z = (features - novelty.mean) / novelty.scale
    z /= np.maximum(np.linalg.norm(z, axis=1, keepdims=True), np.float32(1e-12))
    return np.asarray(1 - (z @ novelty.centroids.T).max(axis=1), dtype=np.float32)


def _novelty_of(head: Head, features: Features, scores: Float32) -> Float32:
    if head.novelty is None:
        return np.zeros(len(features), dtype=np.float32)
    far = farness(head.novelty, features, scores)
    return np.interp(far, head.novelty.distances, head.novelty.ranks).astype(np.float32)
