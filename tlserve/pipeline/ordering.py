"""A fine-tuning, ordered and done: what the trainer leaves for the tuner, and what the tuner leaves for it.

Both lie in the model's tuning folder, so that either process may die and the work goes on.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tlserve.core.messages import PassJob
from tlserve.core.plan import Plan, Strategy, TuneWish
from tlserve.core.tuning import TuneOptions
from tlserve.core.types import Snapshot, Split
from tlserve.core.wire import as_json, from_json
from tlserve.pipeline.workshop import Workshop
from tlserve.plugin_api import LAST_TAP
from tlserve.release.disk import replace_file, store_errors
from tlserve.release.layout import StateLayout


@dataclass(frozen=True, slots=True)
class TuneImage:
    """A training image. The held-out ones have no part in a fine-tuning."""

    digest: str
    label: str
    path: str
    """Relative to the model's folder."""
    group: int
    """Near duplicates share a number."""


@dataclass(frozen=True, slots=True)
class TuneOrder:
    """All that the tuner needs to know."""

    model: str
    backbone: str
    """As users write it."""
    parent: str
    """Digest of its build."""
    folder: str
    max_pixels: int
    snapshot_id: str
    strategy: Strategy
    wish: TuneWish
    augment: tuple[str, ...]
    views: int
    seed: int
    images: tuple[TuneImage, ...]
    precision: str = "fp32"
    """Of the parent; what comes of it is reduced to the same."""

    @property
    def plan(self) -> Plan:
        """What a version on the tuned build is trained with, to begin with."""
        return Plan((LAST_TAP,), strategy=self.strategy)


@dataclass(frozen=True, slots=True)
class TuneResult:
    """How a fine-tuning ended well."""

    build: str
    """Digest of the new build."""
    report: dict[str, Any] = field(default_factory=dict)
    """For the version's report: epochs, what was unfrozen, seconds."""


def order_tuning(
    shop: Workshop, job: PassJob, snapshot: Snapshot, groups: tuple[int, ...], strategy: Strategy
) -> None:
    """Leave an order for the tuner.

    An order that is there already is replaced: the images have changed since. Raises StoreUnavailable.
    """
    base = shop.bench(shop.settled(job.recipe.backbone, job.recipe.precision).name)
    images = snapshot.on(Split.TRAIN)
    order = TuneOrder(
        model=job.model,
        backbone=job.recipe.backbone,
        parent=base.spec.digest,
        folder=job.folder,
        max_pixels=job.recipe.max_pixels,
        snapshot_id=snapshot.snapshot_id,
        strategy=strategy,
        wish=job.recipe.wish.tune,
        augment=job.recipe.wish.augment,
        views=job.recipe.wish.views,
        seed=job.recipe.seed,
        images=tuple(
            TuneImage(image.digest, image.label, image.path, group)
            for image, group in zip(images, groups, strict=True)
        ),
        precision=base.spec.precision,
    )
    folder = shop.layout.tuning(job.model)
    with store_errors(folder, "write the order of a fine-tuning in"):
        folder.mkdir(parents=True, exist_ok=True)
        shop.layout.tuning_result(job.model).unlink(missing_ok=True)
        replace_file(shop.layout.tuning_order(job.model), json.dumps(as_json(order)).encode())


def tune_options(
    strategy: Strategy, wish: TuneWish, augment: tuple[str, ...], views: int, seed: int
) -> TuneOptions:
    """What the strategy and the settings come to."""
    everything = strategy in (Strategy.FINETUNE_ALL, Strategy.SCRATCH)
    return TuneOptions(
        unfreeze="all" if everything else wish.unfreeze,
        epochs=wish.epochs,
        views=views,
        augment=augment,
        activation_cache_gb=wish.activation_cache_gb,
        seed=seed,
        scratch=strategy is Strategy.SCRATCH,
    )


def read_order(layout: StateLayout, model: str) -> TuneOrder | None:
    """The order that waits, is under way or was carried out; None without one."""
    return _read(layout.tuning_order(model), TuneOrder)


def read_result(layout: StateLayout, model: str) -> TuneResult | None:
    """What the tuner made of the order; None while there is nothing."""
    return _read(layout.tuning_result(model), TuneResult)


def write_result(layout: StateLayout, model: str, result: TuneResult) -> None:
    """Raises StoreUnavailable."""
    path = layout.tuning_result(model)
    with store_errors(path, "write"):
        replace_file(path, json.dumps(as_json(result)).encode())


def forget_tuning(layout: StateLayout, model: str) -> None:
    """Remove the order, its result and everything that was kept for it."""
    shutil.rmtree(layout.tuning(model), ignore_errors=True)


T = TypeVar("T")


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        return from_json(kind, json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
