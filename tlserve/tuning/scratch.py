"""A network without its weights: what only the architecture knows."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_SPREAD = 0.02


def reinitialise(module: nn.Module, seed: int) -> None:
    """Give every layer the random weights that it draws by itself, batch norms their first statistics.

    Parameters that belong to no layer with `reset_parameters` (tokens, position embeddings, scales of
    layers) keep their value where they are one-dimensional, and are drawn with a spread of 0.02 elsewhere.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for part in module.modules():
            reset: Any = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()
            else:
                for parameter in part.parameters(recurse=False):
                    if parameter.ndim > 1:
                        parameter.normal_(0, _SPREAD)
