"""One model's search for something better, as its passes see it: is it due, what came of it, what was tuned.

What is kept of it lies in `study.json` and in the tuning folder (`studies`, `ordering`).
"""

from __future__ import annotations

from collections.abc import Sequence

from tlserve.core.messages import PassJob
from tlserve.core.plan import Depth, Plan
from tlserve.core.quadrant import TUNING
from tlserve.core.types import Snapshot
from tlserve.pipeline.bench import Bench
from tlserve.pipeline.learning import Learned
from tlserve.pipeline.ordering import TuneResult, forget_tuning, order_tuning, read_order, read_result
from tlserve.pipeline.studies import Study, is_due, read_study, tuning_digest, wish_digest, write_study
from tlserve.pipeline.workshop import Workshop
from tlserve.release import Version


class Search:
    """For one pass."""

    def __init__(self, job: PassJob, shop: Workshop) -> None:
        self._job, self._shop, self._layout = job, shop, shop.layout
        self.ordered = False
        """Whether a fine-tuning is to be carried out, or its result learnt on."""

    @property
    def base(self) -> str:
        """Digest of the build of the backbone that the settings name."""
        recipe = self._job.recipe
        return self._shop.settled(recipe.backbone, recipe.precision).name

    # -- studies

    def is_wanted(self, snapshot: Snapshot) -> bool:
        """Whether a pass at full depth is worth its time after this one."""
        job = self._job
        if job.depth not in (Depth.QUICK, Depth.INSTANT) or not job.recipe.study:
            return False
        study = read_study(self._layout.study(job.model))
        return job.force or study is None or not study.covers(snapshot, self.base, job.recipe)

    def ended(self, bench: Bench, snapshot: Snapshot, learned: Learned, groups: Sequence[int]) -> None:
        """Note the end of a study, and order the fine-tuning that it calls for. Raises StoreUnavailable.

        groups: of the training images, in order; near duplicates share a number.
        """
        job, base = self._job, self.base
        before = read_study(self._layout.study(job.model))
        tuned_at = before.n_images_at_tuning if before is not None and before.build == base else 0
        strategy = learned.choice.strategy if learned.choice is not None else learned.plan.strategy
        tuning, is_tuned = tuning_digest(job.recipe, strategy), bench.spec.digest != base
        if strategy not in TUNING:
            # One that is under way, for other wishes, is withdrawn.
            forget_tuning(self._layout, job.model)
            tuning = before.tuning if before is not None else ""
        elif is_due(before, tuned_at, snapshot, job.recipe, tuned_as=tuning if is_tuned else None):
            order_tuning(self._shop, job, snapshot, tuple(groups), strategy)
            self.ordered, tuned_at = True, len(snapshot.images)
        found = learned.choice.reason if learned.choice is not None else "kept to the fine-tuned backbone"
        self._note(snapshot, found=found, tuned_at=tuned_at, tuning=tuning)

    def is_impossible(self, snapshot: Snapshot, why: str) -> None:
        """The settings ask for what the backbone cannot do: studying again would not change that."""
        self._note(snapshot, problem=why)

    @property
    def problem(self) -> str:
        """What keeps studies from doing what the settings ask now; empty if nothing does."""
        study = read_study(self._layout.study(self._job.model))
        return study.problem if study is not None and study.wish == wish_digest(self._job.recipe) else ""

    def _note(
        self, snapshot: Snapshot, *, found: str = "", problem: str = "", tuned_at: int = 0, tuning: str = ""
    ) -> None:
        study = Study(
            build=self.base,
            wish=wish_digest(self._job.recipe),
            n_images=len(snapshot.images),
            classes=snapshot.classes,
            found=found,
            n_images_at_tuning=tuned_at,
            tuning=tuning,
            problem=problem,
        )
        write_study(self._layout.study(self._job.model), study)

    # -- fine-tuned builds

    def tuned_plan(self, bench: Bench, live: Version | None) -> Plan | None:
        """What the build at work was fine-tuned for; None for a build as its plugin made it."""
        if self._job.tuned is not None:
            order = read_order(self._layout, self._job.model)
            return order.plan if order is not None else None
        if live is not None and live.manifest.build == bench.spec.digest and live.manifest.tuned_from:
            return live.manifest.recipe_plan
        return None

    def result(self) -> TuneResult | None:
        """Of a fine-tuning that nobody learnt on yet."""
        return read_result(self._layout, self._job.model)

    def is_still_wanted(self, tuned: str) -> bool:
        """Whether a tuned build is the one that was ordered, of the backbone that the settings name.

        If it is not, what is left of it is removed; unless a newer order lies there, whose tuner may be at
        work.
        """
        order, result = read_order(self._layout, self._job.model), self.result()
        if order is None or result is None or result.build != tuned:
            return False
        strategy = self._job.recipe.wish.strategy
        wanted = order.parent == self.base and strategy in ("auto", order.strategy)
        if not wanted:
            forget_tuning(self._layout, self._job.model)
        return wanted

    def learnt(self) -> None:
        """A version was made of the tuned build: its order and all that was kept for it may go."""
        forget_tuning(self._layout, self._job.model)
