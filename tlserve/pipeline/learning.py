"""From a filled cache to a trained head: quickly by a plan that is known, or by looking for a better plan."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tlserve.core.augmentation import Augmentation, policy, view_keys
from tlserve.core.head import Head
from tlserve.core.judge import columns_of
from tlserve.core.lifecycle import Phase
from tlserve.core.messages import Recipe
from tlserve.core.plan import Depth, HeadKind, Plan, Strategy
from tlserve.core.strategy import Choice
from tlserve.core.types import Features, LabelledImage, Snapshot, Split
from tlserve.pipeline.bench import Bench
from tlserve.pipeline.choosing import choose_strategy
from tlserve.pipeline.fast import FastHeads, Footing, StoredRows
from tlserve.pipeline.filling import Filler
from tlserve.pipeline.telling import Teller
from tlserve.pipeline.workshop import Workshop
from tlserve.plugin_api import LAST_TAP
from tlserve.training import (
    COMFORTABLE_BYTES,
    Examples,
    OutOfFold,
    StreamedExamples,
    TrainedHead,
    judged_on,
    predicted_seconds,
    train,
)

DIRECT_SHARE = 0.3
"""Of the budget of a fast head: a plan that takes no longer is carried out at once."""
FEWEST_JUDGES = 10
FEW_VIEWS = 256
"""A quick pass makes this many missing views at most; the next passes, or a study, make the rest."""
LOOKING = "looking for a better version"
NO_VIEWS = Augmentation()
LEAST_PROBABILITY = 1e-12
Ints = npt.NDArray[np.intp]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Learned:
    """A trained head, the plan it came from, and what was found out on the way (parts of the report)."""

    trained: TrainedHead
    plan: Plan
    notes: dict[str, Any] = field(default_factory=dict)
    choice: Choice | None = None
    full_plan: Plan | None = None
    """What the full recipe goes by, where this head is only the best that was to be had at once."""

    @property
    def is_fast(self) -> bool:
        return self.full_plan is not None


class Learner:
    """Learns one snapshot on one build."""

    def __init__(
        self,
        bench: Bench,
        snapshot: Snapshot,
        recipe: Recipe,
        filler: Filler,
        teller: Teller,
        *,
        groups: Callable[[], Sequence[int]],
        warm: Head | None,
        warm_setting: float | None = None,
    ) -> None:
        """groups: gives those of the training images, in order; near duplicates share a number.

        warm: the live head. warm_setting: the C that it was fitted with, where there is one.
        """
        self._bench, self._recipe, self._filler, self._teller = bench, recipe, filler, teller
        self._snapshot = snapshot
        self._images, self._held_out = snapshot.on(Split.TRAIN), snapshot.on(Split.HELD_OUT)
        self._groups, self._warm, self._warm_setting = groups, warm, warm_setting

    def quick(self, plan: Plan) -> Learned:
        """By the plan, on whatever views the cache has or a moment gives."""
        if self._are_too_many(plan.taps, plan.views):
            plan = replace(plan, augment=("none",), views=0, mixup=False)
        augmentation = policy(plan.augment)
        few = self._lacking_views(augmentation, plan.views, FEW_VIEWS)
        self._filler.views(self._bench, few, augmentation, plan.views)
        self._teller.enter(Phase.TRAINING)
        trained = self._train(plan.taps, (plan.head,), plan.mixup, augmentation, plan.views)
        # Of rows that stay on the disk not every kind of head can be learnt.
        return Learned(trained, replace(plan, head=trained.kind))

    def fast(self, plan: Plan, heads: FastHeads, group_of: Callable[[], Mapping[str, str]]) -> Learned | None:
        """The best head that can be had at once; None where the plan itself is as quick.

        plan: what the full recipe goes by. group_of: the group of near duplicates of each image, by digest.
        """
        budget = self._recipe.instant_budget_seconds
        if self._judges() or self._is_quick(plan, heads, DIRECT_SHARE * budget):
            return None
        self._teller.enter(Phase.TRAINING)
        on = Footing(self._bench, plan.taps, self._snapshot, group_of)
        state = heads.state(on, cancelled=self._teller.cancelled)
        trained = state.fit(
            state.names,
            budget,
            self._warm,
            warm_kind=plan.head,
            warm_setting=self._warm_setting,
            held_out_rows=self.held_out_rows(plan.taps),
            novelty_budget_kb=self._recipe.wish.novelty_budget_kb,
            places={image.digest: place for place, image in enumerate(self._images)},
            cancelled=self._teller.cancelled,
        )
        self._teller.check_cancelled()
        if self._warm_setting is not None:
            # The next fast head starts there too, whatever kind this one is.
            trained = replace(trained, report={"C": self._warm_setting, **trained.report})
        return Learned(trained, Plan(plan.taps, trained.kind, plan.strategy), full_plan=plan)

    def _is_quick(self, plan: Plan, heads: FastHeads, seconds: float) -> bool:
        """Whether the whole plan will take no longer than this, about."""
        if self._lacking_views(policy(plan.augment), plan.views, FEW_VIEWS):
            return False
        return seconds >= predicted_seconds(
            (plan.head,),
            n_images=len(self._images),
            n_features=self._bench.width(plan.taps),
            n_classes=len({image.label for image in self._images}),
            flops_per_second=heads.flops_per_second,
            n_views=len(self._images) * plan.views,
        )

    def study(self, depth: Depth, shop: Workshop, *, tuned: Plan | None = None) -> Learned:
        """Find the plan that cross-validation likes best, as far as the depth allows, and train by it.

        tuned: what the build was fine-tuned for. Its taps are not in question any more, and nothing is
        compared on its rows, which know the training images: softmax, unless the settings name another head.
        """
        self._teller.enter(Phase.TRAINING, f"{LOOKING}: comparing taps and heads")
        wish = self._recipe.wish
        choice = None
        if tuned is None:
            choice = choose_strategy(
                shop,
                self._bench,
                self._images,
                self._recipe,
                groups=self._groups(),
                depth=depth,
                teller=self._teller,
            )
        taps = choice.taps if choice else (LAST_TAP,)
        kinds = tuple(HeadKind) if wish.head == "auto" else (wish.head,)
        if tuned:
            kinds = (default_plan(self._recipe).head,)
        views = not tuned and depth is Depth.FULL and bool(wish.views and policy(wish.augment).operations)
        views = views and not self._are_too_many(taps, wish.views)
        trained = self._train(taps, kinds, wish.mixup and not views)
        strategy = tuned.strategy if tuned else Strategy.TAPS if taps != (LAST_TAP,) else Strategy.HEAD
        plan = Plan(taps, trained.kind, strategy, mixup=mixed(trained))
        notes: dict[str, Any] = {"strategy": choice.as_report()} if choice else {}
        learned = Learned(trained, plan, notes, choice)
        return self._with_views(learned) if views else learned

    def examples(
        self, taps: tuple[str, ...], places: Sequence[int], augmentation: Augmentation, n_views: int
    ) -> Examples:
        """The rows of the training images at these places, and of those of their views that the cache has."""
        store, columns = self._bench.store, self._bench.spec.columns(taps)
        images = [self._images[place] for place in places]
        groups = self._groups()
        keys = {
            key: position
            for position, image in enumerate(images)
            for key in view_keys(image.digest, augmentation, n_views)
        }
        there = keys.keys() - set(store.missing(keys))
        wanted = [key for key in keys if key in there]
        return Examples.of(
            store.read([image.digest for image in images], columns),
            [image.label for image in images],
            views=store.read(wanted, columns) if wanted else None,
            views_of=[keys[key] for key in wanted],
            groups=[groups[place] for place in places],
        )

    def _lacking_views(self, augmentation: Augmentation, n_views: int, most: int) -> list[LabelledImage]:
        """Images of which views have no row yet: as many as lack `most` views together."""
        keys = [view_keys(image.digest, augmentation, n_views) for image in self._images]
        missing = set(self._bench.store.missing(itertools.chain.from_iterable(keys)))
        found = []
        for image, own in zip(self._images, keys, strict=True):
            n_missing = sum(key in missing for key in own)
            if 0 < n_missing <= most:
                found.append(image)
                most -= n_missing
        return found

    def _with_views(self, plain: Learned) -> Learned:
        """The same with augmented views and mixtures, if cross-validation says that these help."""
        wish = self._recipe.wish
        augmentation = policy(wish.augment)
        self._teller.enter(Phase.EXTRACTING, f"{LOOKING}: passing augmented views")
        self._filler.views(self._bench, self._images, augmentation, wish.views)
        self._teller.enter(Phase.TRAINING, f"{LOOKING}: learning from augmented views")
        taps = plain.plan.taps
        trained = self._train(taps, (plain.plan.head,), wish.mixup, augmentation, wish.views)
        note = gained(plain.trained, trained)
        note |= {"policy": ", ".join(wish.augment), "operations": augmentation.words(), "views": wish.views}
        notes = plain.notes | {"augmentation": note}
        if not note["kept"]:
            return replace(plain, notes=notes)
        # The report of the heads' comparison belongs to the version all the same.
        report = {**plain.trained.report, **trained.report}
        for key in ("comparison", "choice"):
            if key in plain.trained.report:
                report[key] = plain.trained.report[key]
        plan = replace(plain.plan, augment=wish.augment, views=wish.views, mixup=mixed(trained))
        return replace(plain, trained=replace(trained, report=report), plan=plan, notes=notes)

    def _train(
        self,
        taps: tuple[str, ...],
        kinds: tuple[HeadKind, ...],
        mixup: bool,
        augmentation: Augmentation = NO_VIEWS,
        n_views: int = 0,
    ) -> TrainedHead:
        judges = self._judges()
        learners = sorted(set(range(len(self._images))) - set(judges))
        too_many = self._are_too_many(taps, n_views)
        trained = train(
            self._streamed(taps, learners)
            if too_many
            else self.examples(taps, learners, augmentation, n_views),
            taps,
            kinds=kinds,
            seed=self._recipe.seed,
            mixup=mixup,
            warm=self._warm,
            held_out_rows_for_novelty=self.held_out_rows(taps),
            novelty_budget_kb=self._recipe.wish.novelty_budget_kb,
            device=self._bench.device.name,
            on_progress=self._teller.tell,
            cancelled=self._teller.cancelled,
        )
        self._teller.check_cancelled()
        if not judges:
            return trained
        rows = self._bench.store.read(
            [self._images[place].digest for place in judges], self._bench.spec.columns(taps)
        )
        targets = columns_of([self._images[place].label for place in judges], trained.head.labels)
        return judged_on(trained, rows, targets, np.array(judges, dtype=np.intp))

    def _are_too_many(self, taps: tuple[str, ...], n_views: int) -> bool:
        """Whether rows and those of their views stay on the disk while they are learnt from.

        Views and mixtures are then done without.
        """
        values = len(self._images) * (1 + n_views) * self._bench.width(taps)
        return 4 * values > COMFORTABLE_BYTES

    def _streamed(self, taps: tuple[str, ...], places: Sequence[int]) -> StreamedExamples:
        """The rows of the training images at these places, left on the disk."""
        images, groups = [self._images[place] for place in places], self._groups()
        return StreamedExamples.of(
            StoredRows.of(self._bench, taps, [image.digest for image in images]),
            [image.label for image in images],
            groups=[groups[place] for place in places],
        )

    def _judges(self) -> list[int]:
        """Places of the training images that judge instead of teaching: on a fine-tuned build those that
        only validated, if they are enough and no class would go without."""
        judges = [at for at, image in enumerate(self._images) if image.digest in self._bench.validation]
        taught = {image.label for image in self._images if image.digest not in self._bench.validation}
        if len(judges) < FEWEST_JUDGES or taught != {image.label for image in self._images}:
            return []
        return judges

    def held_out_rows(self, taps: tuple[str, ...]) -> Features | None:
        if not self._held_out:
            return None
        return self._bench.store.read(
            [image.digest for image in self._held_out], self._bench.spec.columns(taps)
        )


def default_plan(recipe: Recipe, tuned: Plan | None = None) -> Plan:
    """Where nothing was studied yet: the head that the settings name, else the simplest, on the last tap.

    tuned: what the build at work was fine-tuned for.
    """
    kind = HeadKind.SOFTMAX if recipe.wish.head == "auto" else recipe.wish.head
    return Plan((LAST_TAP,), kind, Strategy.HEAD if tuned is None else tuned.strategy)


def mixed(trained: TrainedHead) -> bool:
    """Whether mixtures of rows were kept."""
    return bool((trained.report.get("mixup") or {}).get("kept", False))


def gained(without: TrainedHead, with_views: TrainedHead) -> dict[str, Any]:
    """What views (and mixtures) gained out of fold, on the same images.

    They are kept unless wrong answers and log loss together rose by more than a standard error: few images
    cannot show a gain of a point, and where images are few views gain most (docs/benchmarks.md).
    """
    before, after = without.out_of_fold, with_views.out_of_fold
    # Where images are many, each fit is judged on a sample of its own.
    _, mine, theirs = np.intersect1d(after.images, before.images, return_indices=True)
    (wrong_after, loss_after), (wrong_before, loss_before) = _faults(after, mine), _faults(before, theirs)
    gain = wrong_before - wrong_after
    saved = gain + loss_before - loss_after
    kept = bool(saved.mean() > -saved.std() / np.sqrt(len(saved))) if saved.any() else True
    accuracy_before, accuracy_after = 1 - wrong_before.mean(), 1 - wrong_after.mean()
    words = f"{accuracy_after:.1%} with augmented views, {accuracy_before:.1%} without, cross-validated"
    return {
        "accuracy_without": float(accuracy_before),
        "accuracy_with": float(accuracy_after),
        "gain": float(gain.mean()),
        "standard_error": float(gain.std() / np.sqrt(len(gain))),
        "nll_without": float(loss_before.mean()),
        "nll_with": float(loss_after.mean()),
        "kept": kept,
        "reason": f"{words}: {'they are learnt from' if kept else 'they are left out'}",
    }


def _faults(fold: OutOfFold, at: Ints) -> tuple[Float64, Float64]:
    """Of these images: 1 for each wrong answer, and the log loss in nats; both (n,)."""
    probabilities, targets = fold.probabilities[at].astype(np.float64), fold.targets[at]
    own = probabilities[np.arange(len(at)), targets]
    wrong = (probabilities.argmax(axis=1) != targets).astype(np.float64)
    return wrong, -np.log(np.maximum(own, LEAST_PROBABILITY))
