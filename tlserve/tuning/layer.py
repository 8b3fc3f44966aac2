"""The head while it is tuned: a linear layer on standardised features, whatever the backbone's scale is."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from tlserve.core.head import Dense

_LEAST_SCALE = 1e-6


class HeadLayer(nn.Module):
    """Class scores of features: (n, n_features) to (n, n_classes).

    The learning rate then means the same for each feature and for each backbone.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, n_features: int, n_classes: int) -> None:
        """All zero, on features as they are."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))
        self.weight = nn.Parameter(torch.zeros(n_classes, n_features))
        self.bias = nn.Parameter(torch.zeros(n_classes))

    def standardise(self, features: Tensor) -> None:
        """From now on standardise as these features, (n, n_features), ask for; no score changes by it."""
        with torch.no_grad():
            whole = self.weight / self.scale
            bias = self.bias - whole @ self.mean
            self.mean.copy_(features.mean(0))
            spread = features.std(0, correction=0)
            self.scale.copy_(torch.where(spread > _LEAST_SCALE, spread, torch.ones_like(spread)))
            self.weight.copy_(whole * self.scale)
            self.bias.copy_(bias + whole @ self.mean)

    def forward(self, features: Tensor) -> Tensor:
        scores: Tensor = nn.functional.linear((features - self.mean) / self.scale, self.weight, self.bias)
        return scores

    def dense(self) -> Dense:
        """The same on raw features, for a `core.head.Head`."""
        with torch.no_grad():
            whole = self.weight / self.scale
            bias = self.bias - whole @ self.mean
        weight = np.ascontiguousarray(whole.T.cpu().numpy(), dtype=np.float32)
        return Dense(weight, bias.cpu().numpy().astype(np.float32))
