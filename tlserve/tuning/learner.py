"""The parts that learn and how: rates by depth, their rise and fall, one step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tlserve.core.tuning import TuneOptions
from tlserve.tuning.cut import Cut
from tlserve.tuning.layer import HeadLayer

_HEAD = "head."
_BACKBONE = "backbone."


class Learner:
    """A tuned part and its head, with their optimiser.

    module: the whole network, whose parameters the tuned part uses. class_weights: (n_classes,).
    """

    def __init__(
        self,
        cut: Cut,
        module: nn.Module,
        head: HeadLayer,
        options: TuneOptions,
        *,
        class_weights: Tensor,
        device: torch.device,
        n_steps: int,
    ) -> None:
        self.cut, self.module, self.head = cut, module, head.to(device)
        self._options, self._device, self._n_steps = options, device, n_steps
        self.class_weights = class_weights.to(device)
        self._loss = nn.CrossEntropyLoss(self.class_weights, label_smoothing=options.label_smoothing)
        groups = [*_groups(head.parameters(), options.head_learning_rate, options.weight_decay)]
        for depth, block in enumerate(reversed(cut.learning)):
            groups += _groups(block, backbone_rate(options, depth), options.weight_decay)
        self._rates = [group["lr"] for group in groups]
        self._parameters = [parameter for group in groups for parameter in group["params"]]
        self._optimiser = torch.optim.AdamW(groups)
        self._half = half_precision(device)
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._half is torch.float16)

    def scores(self, activations: tuple[Tensor, ...]) -> Tensor:
        """Class scores, (n, n_classes) float32."""
        with self._mixed():
            features = self.cut.tuned(*activations)
        scores: Tensor = self.head(features.float())
        return scores

    def scores_now(self, activations: tuple[Tensor, ...]) -> Tensor:
        """The same, to look at and not to learn from."""
        with torch.no_grad():
            return self.scores(activations)

    def features_now(self, activations: tuple[Tensor, ...]) -> Tensor:
        with torch.no_grad(), self._mixed():
            features: Tensor = self.cut.tuned(*activations)
        return features.float()

    def step(self, activations: tuple[Tensor, ...], targets: Tensor, number: int) -> float:
        """One step on one batch; number: of the step, from 0, over all epochs. Returns the loss."""
        share = rate_share(number, self._n_steps, self._options.warmup)
        for group, rate in zip(self._optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * share
        self._optimiser.zero_grad(set_to_none=True)
        loss = self._loss(self.scores(activations), targets)
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self._optimiser)
        nn.utils.clip_grad_norm_(self._parameters, self._options.clip)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        return float(loss.detach())

    def _mixed(self) -> torch.autocast:
        """Mixed precision, where the device gains by it."""
        return torch.autocast(self._device.type, self._half, enabled=self._half is not None)

    def train(self, on: bool) -> None:
        """Only a network that learns from random weights knows a training mode: others keep what their
        batch norms have learnt, and drop nothing out."""
        self.module.train(on and self._options.scratch)

    def learnt(self) -> dict[str, Tensor]:
        """Copies of all that training changes."""
        state = {_BACKBONE + name: tensor for name, tensor in self._backbone_state().items()}
        state |= {_HEAD + name: tensor for name, tensor in self.head.state_dict().items()}
        return {name: tensor.detach().clone() for name, tensor in state.items()}

    def restore(self, learnt: Mapping[str, Tensor]) -> None:
        """The inverse of `learnt`. Raises RuntimeError or KeyError for the state of something else."""
        own = {_BACKBONE + name: tensor for name, tensor in self._backbone_state().items()}
        own |= {_HEAD + name: tensor for name, tensor in self.head.state_dict().items()}
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(learnt[name])

    def optimiser_state(self) -> dict[str, Any]:
        return self._optimiser.state_dict()

    def scaler_state(self) -> dict[str, Any]:
        return self._scaler.state_dict()

    def resume(self, learnt: Mapping[str, Tensor], optimiser: dict[str, Any], scaler: dict[str, Any]) -> None:
        """Go on from a checkpoint. Raises RuntimeError, ValueError or KeyError for that of something else."""
        self.restore(learnt)
        self._optimiser.load_state_dict(optimiser)
        if scaler:
            self._scaler.load_state_dict(scaler)

    def _backbone_state(self) -> dict[str, Tensor]:
        learning = {id(parameter) for block in self.cut.learning for parameter in block}
        state: dict[str, Tensor] = {
            name: p for name, p in self.module.named_parameters() if id(p) in learning
        }
        if self._options.scratch:
            state.update(self.module.named_buffers())
        return state


def half_precision(device: torch.device) -> torch.dtype | None:
    """bfloat16 on a GPU that has it, else float16 with scaled gradients; None on a processor."""
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def backbone_rate(options: TuneOptions, depth: int) -> float:
    """The learning rate of the block `depth` blocks above which there is only the head."""
    if options.scratch:
        return options.head_learning_rate
    return options.head_learning_rate * options.backbone_fraction * options.block_decay**depth


def rate_share(number: int, n_steps: int, warmup: float) -> float:
    """What share of its learning rate a step has: a linear rise, then half a cosine down to zero."""
    n_warm = warmup * n_steps
    if number < n_warm:
        return (number + 1) / (n_warm + 1)
    return 0.5 * (1 + math.cos(math.pi * (number - n_warm) / max(1.0, n_steps - n_warm)))


def _groups(parameters: Any, rate: float, weight_decay: float) -> list[dict[str, Any]]:
    """Weights and, apart, what is not decayed: biases and the factors of norms."""
    together = list(parameters)
    decayed = [parameter for parameter in together if parameter.ndim > 1]
    others = [parameter for parameter in together if parameter.ndim <= 1]
    groups = [
        {"params": decayed, "lr": rate, "weight_decay": weight_decay},
        {"params": others, "lr": rate, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
