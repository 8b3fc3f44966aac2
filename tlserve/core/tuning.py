"""Fine-tuning in words that both processes and manifests share: how it is done, and where it stands."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

BLOCK_SHARES = ((500, 0.0), (20_000, 0.5), (100_000, 0.75))
"""Below so many training images, this share of the blocks learns, rounded down, but at least one block;
from the last number on, all of them."""


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """How a backbone is fine-tuned. The values were tried on flowers with MobileNetV2: docs/benchmarks.md."""

    unfreeze: int | Literal["all", "auto"] = "auto"
    """How many of the last blocks learn; `auto` as in `blocks_for`."""
    epochs: int = 12
    """At most: it ends earlier where nothing has improved for `patience` epochs."""
    batch_size: int = 32
    head_learning_rate: float = 1e-3
    backbone_fraction: float = 0.3
    """The deepest block's learning rate as a share of the head's."""
    block_decay: float = 0.7
    """Each shallower block's learning rate as a share of the one above it."""
    warmup: float = 0.1
    """The share of all steps in which the learning rates rise from zero; then they fall as a cosine."""
    patience: int = 5
    """Epochs without a better validation before it ends."""
    label_smoothing: float = 0.1
    weight_decay: float = 0.05
    clip: float = 1.0
    """The longest gradient, over all parameters, that a step follows."""
    views: int = 3
    """Augmented views of each picture that are drawn from, beside the picture itself."""
    augment: tuple[str, ...] = ("light",)
    """What a view may show, as in `core.augmentation.policy`."""
    activation_cache_gb: float = 4.0
    """Disk for what the frozen part gives; what does not fit is computed again each epoch."""
    seed: int = 0
    scratch: bool = False
    """Forget the weights and learn them all from random ones, batch norm statistics too."""

    def __post_init__(self) -> None:
        """Raises ValueError, naming the field, for a value that cannot work."""
        if isinstance(self.unfreeze, int) and self.unfreeze < 1:
            raise ValueError(
                f"unfreeze must be a number of blocks from 1 on, all or auto; not {self.unfreeze}"
            )
        for name in (
            "epochs",
            "batch_size",
            "patience",
            "head_learning_rate",
            "backbone_fraction",
            "block_decay",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("views", "activation_cache_gb", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        for name in ("warmup", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be from 0 to below 1, not {getattr(self, name)}")


class TuneStage(StrEnum):
    CACHING = "caching"
    """The frozen part runs over pictures and views, for the last time."""
    TRAINING = "training"


@dataclass(frozen=True, slots=True)
class TuneProgress:
    """Where a fine-tuning stands."""

    stage: TuneStage
    done: int
    total: int
    """Pictures and views while caching; steps of this epoch while training, pictures in epoch 0."""
    epoch: int = 0
    """The one that runs, from 1; 0 while the head is fitted on the untouched backbone."""
    of: int = 0
    loss: float | None = None
    """Mean over the steps of this epoch so far."""
    validation_accuracy: float | None = None
    """After the last epoch that ended; before the first, of the head on the untouched backbone."""
    seconds_left: float | None = None
    """At most: it may end early."""


def blocks_for(unfreeze: int | Literal["all", "auto"], n_images: int, n_blocks: int) -> int:
    """How many of a backbone's last blocks learn: from 1 to `n_blocks`.

    `auto` grows with the training images: below 500 one, below 20,000 half of the blocks, below 100,000
    three quarters, then all; rounded down.
    """
    if unfreeze == "all":
        return n_blocks
    if unfreeze != "auto":
        return min(unfreeze, n_blocks)
    share = next((share for below, share in BLOCK_SHARES if n_images < below), 1.0)
    return max(1, int(share * n_blocks))
