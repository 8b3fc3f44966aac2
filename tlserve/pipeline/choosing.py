"""How far to reach into the backbone for one model: measured on its cached rows, then chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tlserve.core.assessment import Assessment
from tlserve.core.messages import Recipe
from tlserve.core.plan import Depth, Strategy
from tlserve.core.quadrant import TUNING
from tlserve.core.strategy import Choice, choose
from tlserve.core.types import Features, LabelledImage
from tlserve.pipeline.telling import Teller
from tlserve.pipeline.workshop import Bench, Workshop
from tlserve.plugin_api import TrainableBackbone
from tlserve.training import score_taps


def choose_strategy(
    shop: Workshop,
    bench: Bench,
    images: Sequence[LabelledImage],
    recipe: Recipe,
    *,
    groups: Sequence[int],
    depth: Depth,
    teller: Teller,
) -> Choice:
    """The strategy for these training images. groups: near duplicates share a number.

    Raises StrategyImpossible for a wish that the backbone cannot fulfil, TrainingCancelled.
    """
    names = sorted({image.label for image in images})
    targets = np.array([names.index(image.label) for image in images], dtype=np.intp)
    digests = [image.digest for image in images]

    def read(taps: tuple[str, ...]) -> Features:
        return bench.store.read(digests, bench.spec.columns(taps))

    scores = score_taps(
        read,
        [tap.name for tap in bench.spec.taps],
        targets,
        len(names),
        groups=np.asarray(groups, dtype=np.intp),
        seed=recipe.seed,
        cancelled=teller.cancelled,
    )
    trainable, seconds = _tuning_here(shop, recipe, len(images), depth)
    assessment = Assessment(
        n_images=len(images),
        n_classes=len(names),
        chance=float(np.bincount(targets).max() / len(targets)),
        scores=scores,
        trainable=trainable,
        estimated_seconds=seconds,
    )
    return choose(assessment, recipe.wish, depth=depth)


def _tuning_here(
    shop: Workshop, recipe: Recipe, n_images: int, depth: Depth
) -> tuple[bool, Mapping[Strategy, float]]:
    """Whether the backbone can be trained, and how long that takes; looked into only where it matters."""
    asked = recipe.wish.strategy in TUNING
    large = recipe.wish.strategy == "auto" and n_images >= recipe.wish.large_images
    if depth is not Depth.FULL or not (asked or large):
        return True, {}
    backbone = shop.plugins.load(recipe.backbone)
    if not isinstance(backbone, TrainableBackbone):
        return False, {}
    return True, {}
