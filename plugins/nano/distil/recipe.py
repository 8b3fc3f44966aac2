"""Everything that shapes the weights, apart from the data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .student import Weights


@dataclass(frozen=True, slots=True)
class Recipe:
    """Most is learnt on small views, at a third of the cost; the size that serves comes last."""

    seed: int = 1
    stages: tuple[tuple[int, int], ...] = ((64, 14), (112, 16))
    """(side in pixels, epochs), in order"""
    n_views: int = 3
    n_drawn: int = 6000
    batch: int = 128
    peak_rate: float = 0.15
    warmup_epochs: float = 2.0
    momentum: float = 0.9
    weight_decay: float = 3e-4
    weights: Weights = field(default_factory=Weights)

    @property
    def epochs(self) -> int:
        return sum(epochs for _, epochs in self.stages)

    def side(self, epoch: int) -> int:
        """Pixels of the views in this epoch, counted from 0."""
        for side, epochs in self.stages:
            if epoch < epochs:
                return side
            epoch -= epochs
        raise ValueError(f"the recipe has {self.epochs} epochs")

    def rate(self, epoch: float) -> float:
        """The learning rate: a linear rise, then half a cosine down to zero."""
        if epoch < self.warmup_epochs:
            return self.peak_rate * (0.02 + 0.98 * epoch / self.warmup_epochs)
        share = (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs)
        return self.peak_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
