"""The networks of MLP heads, in torch: those of all folds learn side by side, in one batched product each."""

from __future__ import annotations

from types import TracebackType

import numpy as np
import torch
from torch import nn

from tlserve.core.head import Dense, Layer
from tlserve.training.arrays import Float32, Float64, Ints
from tlserve.training.lesson import Lesson
from tlserve.training.method import Workplace
from tlserve.training.scaling import Scaling

DROPOUT = 0.5
LARGEST_BATCH, SMALLEST_BATCH = 128, 16
FEWEST_STEPS = 8
"""Of an epoch: few rows are gone through several times, or nothing would be learnt before it is judged."""
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-2
FLOPS_FOR_THREADS = 5e8
"""Of one step. Below this a second thread waits more than it works."""


class Networks:
    """Networks with one hidden layer on shared rows, one for each fit; a fit weighs a row 0 not to see it.

    row_weights: (n_fits, n) float32. Within `with`, torch uses one thread where steps are small.
    """

    def __init__(self, lesson: Lesson, row_weights: Float32, n_hidden: int, place: Workplace) -> None:
        self._place, self._device = place, torch.device(place.engine.device)
        self._threads_before = torch.get_num_threads()
        # Drawn on the CPU: the same numbers on any device.
        self._random = torch.Generator().manual_seed(place.seed)
        self._seen = [torch.from_numpy(np.flatnonzero(weights)) for weights in row_weights]
        self._longest = max(len(seen) for seen in self._seen)
        self._batch = int(np.clip(self._longest // FEWEST_STEPS, SMALLEST_BATCH, LARGEST_BATCH))
        self._rounds = -(-FEWEST_STEPS // -(-self._longest // self._batch))
        mean = row_weights.sum(axis=1, keepdims=True) / [[len(seen)] for seen in self._seen]
        self._weights = self._placed((row_weights / mean).astype(np.float32))
        self._rows, self._targets = self._placed(lesson.rows), self._placed(lesson.targets)
        n_fits, n_features = len(row_weights), lesson.rows.shape[1]
        self._hidden = self._layer(n_fits, n_features, n_hidden, gain=2.0)
        self._last = self._layer(n_fits, n_hidden, lesson.n_classes, gain=1.0)
        self._optimiser = torch.optim.AdamW(
            [*self._hidden, *self._last], lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True
        )

    def __enter__(self) -> Networks:
        n_fits, n_features, n_hidden = self._hidden[0].shape
        if 6.0 * n_fits * self._batch * n_features * n_hidden < FLOPS_FOR_THREADS:
            torch.set_num_threads(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        torch.set_num_threads(self._threads_before)

    def learn(self) -> None:
        """One epoch. Raises TrainingCancelled."""
        for _ in range(self._rounds):
            orders = torch.stack([self._shuffled(seen) for seen in self._seen])
            for batch in torch.split(orders, self._batch, dim=1):
                self._place.check()
                self._step(batch)

    def scores(self, fit: int, at: Ints) -> Float32:
        """(n, n_classes): what one fit says of these rows."""
        with torch.no_grad():
            rows = self._rows[torch.from_numpy(at).to(self._device)]
            hidden = (rows @ self._hidden[0][fit] + self._hidden[1][fit]).relu()
            found = hidden @ self._last[0][fit] + self._last[1][fit]
        return np.asarray(found.cpu().numpy(), dtype=np.float32)

    def layers(self, fit: int, scaling: Scaling) -> tuple[Layer, ...]:
        """One fit as a head has it: the first layer reads raw rows."""
        weight, bias = (_numpy(part[fit]) for part in self._hidden)
        first = scaling.fold_in(np.concatenate([weight, bias]).T)
        weight, bias = (_numpy(part[fit]) for part in self._last)
        return first, Dense(weight.astype(np.float32), bias[0].astype(np.float32))

    def _step(self, batch: torch.Tensor) -> None:
        """batch: (n_fits, n) rows of each fit; -1 for none."""
        at = batch.clamp(min=0).to(self._device)
        weights = self._weights.gather(1, at) * (batch >= 0).to(self._device)
        kept = torch.rand((*batch.shape, self._hidden[0].shape[2]), generator=self._random) >= DROPOUT
        hidden = torch.baddbmm(self._hidden[1], self._rows[at], self._hidden[0]).relu()
        hidden = hidden * kept.to(self._device) / (1 - DROPOUT)
        logits = torch.baddbmm(self._last[1], hidden, self._last[0])
        each = nn.functional.cross_entropy(
            logits.flatten(0, 1), self._targets[at].flatten(), reduction="none"
        )
        n_real = (batch >= 0).sum(dim=1).clamp(min=1).to(self._device)
        self._optimiser.zero_grad(set_to_none=True)
        # Fits share nothing, so the sum of their means teaches each its own.
        ((each.view_as(at) * weights).sum(dim=1) / n_real).sum().backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()

    def _shuffled(self, seen: torch.Tensor) -> torch.Tensor:
        order = seen[torch.randperm(len(seen), generator=self._random)]
        return nn.functional.pad(order, (0, self._longest - len(seen)), value=-1)

    def _layer(self, n_fits: int, n_in: int, n_out: int, gain: float) -> tuple[torch.Tensor, torch.Tensor]:
        drawn = torch.randn(n_fits, n_in, n_out, generator=self._random) * (gain / n_in) ** 0.5
        parts = (drawn.to(self._device), torch.zeros(n_fits, 1, n_out, device=self._device))
        for part in parts:
            part.requires_grad_()
        return parts

    def _placed(self, array: Float32 | Ints) -> torch.Tensor:
        return torch.tensor(array, device=self._device)


def _numpy(part: torch.Tensor) -> Float64:
    return np.asarray(part.detach().cpu().numpy(), dtype=np.float64)
