"""The student: the network of the plugin, the heads that only training needs, and their losses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from tlserve_nano.network import EXPANDED_WIDTH, NanoNet
from torch import Tensor, nn
from torch.nn import functional

from .pictures import NO_CLASS
from .teacher import Targets, over_places


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each loss counts."""

    description: float = 5.0
    """squared error to the teacher's standardised features, over the whole and over the quarters"""
    opinion: float = 1.0
    """divergence from the teacher's opinion on its own thousand classes"""
    label: float = 0.5
    label_smoothing: float = 0.1


class Student(nn.Module):
    """Describes a view as the teacher would, and names its class."""

    def __init__(self, n_classes: int, n_teacher: int) -> None:
        super().__init__()
        self.network = NanoNet()
        self.describe = nn.Linear(EXPANDED_WIDTH, n_teacher)
        self.label = nn.Linear(EXPANDED_WIDTH, n_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Descriptions (n, 5, n_teacher) and class logits (n, n_classes)."""
        places = over_places(self.network.maps(x)["expanded"])
        return self.describe(places), self.label(places[:, 0])


class Opinion(nn.Module):
    """The teacher's own last layer, frozen: what a description amounts to in its thousand classes."""

    def __init__(self, classifier: Path, targets: Targets) -> None:
        """Raises ValueError if the file holds no matrix of the targets' width beside its bias."""
        super().__init__()
        tensors = load_file(classifier)
        found = [n for n, t in tensors.items() if t.ndim == 2 and t.shape[1] == targets.width]
        if len(found) != 1:
            raise ValueError(f"{classifier} holds {len(found)} matrices of width {targets.width}, wanted one")
        matrix, bias = tensors[found[0]].float(), tensors[found[0].replace("weight", "bias")].float()
        # Descriptions are standardised: the layer takes that back.
        std, mean = torch.from_numpy(targets.std), torch.from_numpy(targets.mean)
        self.register_buffer("matrix", matrix * std)
        self.register_buffer("bias", bias + matrix @ mean)

    def forward(self, described: Tensor) -> Tensor:
        return functional.linear(described, self.get_buffer("matrix"), self.get_buffer("bias"))


def losses(
    answers: tuple[Tensor, Tensor], wanted: Tensor, labels: Tensor, *, opinion: Opinion, weights: Weights
) -> tuple[Tensor, dict[str, float]]:
    """The sum to minimise, and its parts before weighting.

    answers: of the student; wanted: (n, 5, n_teacher); labels: (n,), NO_CLASS where there is none.
    """
    described, logits = (answer.float() for answer in answers)
    errors = (described - wanted).square().mean(dim=(0, 2))
    description = 0.5 * errors[0] + 0.5 * errors[1:].mean()
    theirs = functional.log_softmax(opinion(wanted[:, 0]), dim=1)
    ours = functional.log_softmax(opinion(described[:, 0]), dim=1)
    divergence = functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    label = functional.cross_entropy(
        logits, labels, ignore_index=NO_CLASS, label_smoothing=weights.label_smoothing
    )
    total = weights.description * description + weights.opinion * divergence + weights.label * label
    parts = {"description": description, "opinion": divergence, "label": label}
    return total, {name: part.item() for name, part in parts.items()}
