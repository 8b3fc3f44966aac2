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
from tlserve.pipeline.bench import Bench
from tlserve.pipeline.ordering import tune_options
from tlserve.pipeline.telling import Teller
from tlserve.pipeline.workshop import Workshop
from tlserve.plugin_api import TrainableBackbone
from tlserve.runtime import usable_cores
from tlserve.training import chance_level, images_to_score, score_taps


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
    # Of very many images no more is read than takes part.
    part = images_to_score(targets, len(names), recipe.seed)
    digests = [images[place].digest for place in part]

    def read(taps: tuple[str, ...]) -> Features:
        return bench.store.read(digests, bench.spec.columns(taps))

    scores = score_taps(
        read,
        [tap.name for tap in bench.spec.taps],
        targets[part],
        len(names),
        groups=np.asarray(groups, dtype=np.intp)[part],
        seed=recipe.seed,
        cancelled=teller.cancelled,
    )
    trainable, seconds = _tuning_here(shop, recipe, len(images), len(names), depth)
    assessment = Assessment(
        n_images=len(images),
        n_classes=len(names),
        chance=chance_level(targets),
        scores=scores,
        trainable=trainable,
        estimated_seconds=seconds,
    )
    return choose(assessment, recipe.wish, depth=depth)


def _tuning_here(
    shop: Workshop, recipe: Recipe, n_images: int, n_classes: int, depth: Depth
) -> tuple[bool, Mapping[Strategy, float]]:
    """Whether the backbone can be trained, and the seconds that takes; looked into only where it matters."""
    large = recipe.wish.strategy == "auto" and n_images >= recipe.wish.large_images
    if depth is not Depth.FULL or not (large or recipe.wish.strategy in TUNING):
        return True, {}
    if not isinstance(shop.plugins.load(recipe.backbone), TrainableBackbone):
        return False, {}
    return True, {
        strategy: _seconds(shop, recipe, strategy, n_images=n_images, n_classes=n_classes)
        for strategy in (Strategy.FINETUNE, Strategy.FINETUNE_ALL, Strategy.SCRATCH)
        if large
    }


def _seconds(shop: Workshop, recipe: Recipe, strategy: Strategy, *, n_images: int, n_classes: int) -> float:
    """What a fine-tuning would take on this machine, by a few batches of it."""
    import torch  # takes seconds to import, and most models are never fine-tuned

    from tlserve.tuning import estimate

    wish = recipe.wish
    # Its weights are changed by the batches: a copy of its own.
    backbone = shop.plugins.load(recipe.backbone)
    assert isinstance(backbone, TrainableBackbone)
    return estimate(
        backbone.torch_module(),
        backbone.info.image,
        tune_options(strategy, wish.tune, wish.augment, wish.views, recipe.seed),
        n_images=n_images,
        n_classes=n_classes,
        device=torch.device(shop.device.name),
        folder=shop.layout.root,
        threads=usable_cores(),
    ).seconds
