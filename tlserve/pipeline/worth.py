"""Whether there is anything to learn, and whether it was learnt already."""

from __future__ import annotations

from collections import Counter

from tlserve.core.errors import TooFewClasses
from tlserve.core.messages import Recipe
from tlserve.core.plan import Strategy
from tlserve.core.quadrant import TUNING
from tlserve.core.types import Snapshot, Split
from tlserve.pipeline.bench import Bench
from tlserve.pipeline.studies import wish_digest
from tlserve.release import Manifest, Version


def check_trainable(snapshot: Snapshot) -> None:
    """Raises TooFewClasses when no classifier can be trained on the snapshot, with what it lacks."""
    trained = Counter(image.label for image in snapshot.on(Split.TRAIN))
    usable = [label for label, n_images in snapshot.counts.items() if n_images >= 2 and trained[label]]
    if len(usable) >= 2:
        return
    hints = [
        f"{p.where} ({p.reason})" for p in snapshot.problems if p.kind in ("small_class", "not_in_a_class")
    ]
    detail = "; ".join([*sorted(usable), *hints[:5]])
    raise TooFewClasses(model=snapshot.model, found=len(usable), detail=detail)


def same_work(newest: Manifest, snapshot: Snapshot, bench: Bench, recipe: Recipe) -> bool:
    """Whether a pass would do, and decide, just what the newest version's pass did."""
    settings = relevant(recipe)
    if newest.verdict != "hold":
        # What decides over a good version does not make it another one.
        settings = {name: settings[name] for name in ("seed", "wish")}
    return (
        newest.snapshot_id == snapshot.snapshot_id
        and newest.build == bench.spec.digest
        # Older releases kept fewer settings.
        and all(newest.recipe.get(name, value) == value for name, value in settings.items())
    )


def relevant(recipe: Recipe) -> dict[str, float | str]:
    """The settings on which a head and its verdict depend."""
    policy = recipe.policy
    return {
        "seed": recipe.seed,
        "max_drop": policy.max_drop,
        "recall_floor": policy.recall_floor,
        "wish": wish_digest(recipe),
    }


def fits_wish(live: Version, recipe: Recipe) -> bool:
    """Whether the live version's plan is one that the settings of now may lead to."""
    plan, wish = live.manifest.recipe_plan, recipe.wish
    if plan is None:
        return wish.head in ("auto", "softmax") and wish.strategy in ("auto", Strategy.HEAD)
    tuned = plan.strategy in TUNING
    return (
        wish.head in ("auto", plan.head)
        and (wish.strategy in ("auto", plan.strategy) or (wish.strategy in TUNING and not tuned))
        and plan.views in (0, wish.views)
        and (plan.views == 0 or plan.augment == wish.augment)
        and (wish.mixup or not plan.mixup)
    )


def keeps_tuned(live: Version, recipe: Recipe) -> bool:
    """Whether the build that the live version's backbone was fine-tuned to is still the one to learn on.

    Another head or other views are no reason to leave it: only another strategy is.
    """
    plan = live.manifest.recipe_plan
    return plan is not None and recipe.wish.strategy in ("auto", plan.strategy)


def waits(manifest: Manifest) -> str:
    """What a candidate waits for, in words."""
    return f"{manifest.reason}; waits for: tlserve promote {manifest.model} {manifest.version}"
