"""What a fine-tuning would cost on this machine, from a few batches: to decide before it is begun."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tlserve.core.augmentation import policy
from tlserve.core.tuning import TuneOptions
from tlserve.plugin_api import ImageSpec, TrainableModule
from tlserve.tuning.activations import BLOCK, as_tensors, plan_cache
from tlserve.tuning.cut import Cut
from tlserve.tuning.frozen import FrozenPart
from tlserve.tuning.layer import HeadLayer
from tlserve.tuning.learner import Learner
from tlserve.tuning.pictures import normalised
from tlserve.tuning.train import cut_for

_REPEATS = 2
_DECODE_SECONDS = 0.005
"""For one picture or view, on one thread: not measured, since the pictures are not at hand."""


@dataclass(frozen=True)
class Estimate:
    """Seconds are those of this machine as busy as it is now. Early stopping is not counted on."""

    caching_seconds: float
    """Once, before the first epoch."""
    epoch_seconds: float
    uncached_epoch_seconds: float
    """The same without an activation cache."""
    seconds: float
    """Of the whole fine-tuning, with all its epochs."""
    cache_bytes: int
    cached_share: float
    """Of all pictures and views, what finds room in the cache."""
    n_unfrozen: int
    """Blocks that would learn."""


def estimate(
    trainable: TrainableModule,
    image: ImageSpec,
    options: TuneOptions,
    *,
    n_images: int,
    n_classes: int,
    device: torch.device,
    folder: Path | None = None,
    validation_share: float = 0.1,
    threads: int = 1,
) -> Estimate:
    """Time a few batches of noise. The weights of `trainable` are changed: hand over a copy of its own.

    n_images: all pictures, those that validate among them. folder: where the cache would lie.
    threads: that decode.
    """
    found = cut_for(trainable, image, options, n_images - int(validation_share * n_images))
    trainable.module.to(device)
    pixels = np.random.default_rng(0).integers(0, 256, (BLOCK, image.height, image.width, 3), np.uint8)
    pictures = normalised(pixels, image, device)
    frozen_seconds = 0.0
    if found.frozen is None:
        given: tuple[Tensor, ...] = (pictures[: options.batch_size],)
    else:
        frozen = FrozenPart(found)
        frozen_seconds = _seconds(lambda: frozen.records(pictures), device) / BLOCK
        given = as_tensors(frozen.records(pictures)[: options.batch_size], found.shapes, device)
    learner = _learner(found, trainable.module, given, options=options, n_classes=n_classes, device=device)
    targets = torch.zeros(len(given[0]), dtype=torch.int64, device=device)
    learner.train(True)
    step_seconds = _seconds(lambda: learner.step(given, targets, 0), device) / len(given[0])
    look_seconds = _seconds(lambda: learner.scores_now(given), device) / len(given[0])
    n_validation = max(1, int(validation_share * n_images))
    n_training = n_images - n_validation
    n_views = 1 + len(policy(options.augment).indices(options.views))
    budget = plan_cache(found, n_images * n_views, options.activation_cache_gb, folder)
    fresh = frozen_seconds + _DECODE_SECONDS / threads
    learning = n_training * step_seconds + n_validation * look_seconds
    epoch = learning + n_images * fresh * (1 - budget.share)
    caching = budget.n_cached * fresh
    return Estimate(
        caching_seconds=caching,
        epoch_seconds=epoch,
        uncached_epoch_seconds=learning + n_images * fresh,
        seconds=caching + epoch * options.epochs,
        cache_bytes=budget.n_cached * budget.slot_bytes,
        cached_share=budget.share,
        n_unfrozen=len(found.learning),
    )


def _learner(
    found: Cut,
    module: nn.Module,
    given: tuple[Tensor, ...],
    *,
    options: TuneOptions,
    n_classes: int,
    device: torch.device,
) -> Learner:
    with torch.no_grad():
        n_features = found.tuned(*given).shape[1]
    return Learner(
        found,
        module,
        HeadLayer(n_features, n_classes),
        options,
        class_weights=torch.ones(n_classes),
        device=device,
        n_steps=options.epochs,
    )


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Of one call: the faster of two, after one that warms up."""
    found = []
    for _ in range(1 + _REPEATS):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - began)
    return min(found[1:])
