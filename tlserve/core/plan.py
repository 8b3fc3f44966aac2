"""How a model is trained, in words that settings, both processes and manifests share.

A `Wish` is what the settings ask for, `auto` included; a `Plan` is what a version was really made with.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal


class HeadKind(StrEnum):
    """What is fitted on the rows, from the simplest on: where two do equally well, the earlier is taken."""

    SOFTMAX = "softmax"
    """Multinomial logistic regression."""
    OVR = "ovr"
    """One logistic regression for each class against all others."""
    SVM = "svm"
    """Linear support vector machines, one for each class against all others."""
    RIDGE = "ridge"
    """Least squares on class indicators with an L2 penalty, in closed form."""
    PROJECTION = "projection"
    """A random layer drawn from a seed, ReLU, then ridge."""
    MLP = "mlp"
    """One hidden layer, trained with dropout and early stopping."""


class Strategy(StrEnum):
    """How far training reaches into the backbone."""

    HEAD = "head"
    """A head on the last tap."""
    TAPS = "taps"
    """A head on earlier taps, alone or side by side."""
    FINETUNE = "finetune"
    """The head first, then the last blocks of the backbone with it."""
    FINETUNE_ALL = "finetune_all"
    """The head first, then every block."""
    SCRATCH = "scratch"
    """The architecture only, from random weights."""


class Depth(StrEnum):
    """How much one pass looks for."""

    INSTANT = "instant"
    """The best head that can be had within a second or so of a change; a quick pass refines it."""
    QUICK = "quick"
    """The plan of the version before it: seconds after a drop."""
    ROWS = "rows"
    """Heads and taps compared on the images' own rows; no further backbone run."""
    FULL = "full"
    """Augmented views too, and the question whether to fine-tune."""


@dataclass(frozen=True, slots=True)
class TuneWish:
    """What the settings say of fine-tuning."""

    unfreeze: int | Literal["all", "auto"] = "auto"
    """How many of the backbone's last blocks learn."""
    epochs: int = 12
    activation_cache_gb: float = 4.0
    """Disk for the activations below the first block that learns."""
    budget_minutes: float = 60.0
    """`auto` does not begin a fine-tuning that is estimated to take longer."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the settings ask of training."""

    head: HeadKind | Literal["auto"] = "auto"
    strategy: Strategy | Literal["auto"] = "auto"
    augment: tuple[str, ...] = ("light",)
    """A policy's name, or a list of operations; see `core.augmentation`."""
    views: int = 2
    """Augmented views of each training image."""
    mixup: bool = False
    """Whether mixtures of two images' rows are tried as further training rows."""
    large_images: int = 5_000
    """From this many training images on, fine-tuning pays."""
    novelty_budget_kb: int = 256
    tune: TuneWish = field(default_factory=TuneWish)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a version was trained with."""

    taps: tuple[str, ...]
    head: HeadKind = HeadKind.SOFTMAX
    strategy: Strategy = Strategy.HEAD
    augment: tuple[str, ...] = ("none",)
    views: int = 0
    mixup: bool = False
