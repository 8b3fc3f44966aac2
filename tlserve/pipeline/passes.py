"""One pass over one model's folder, from what is on disk to a judged, published version.

Read `_Pass.run` for the story. Every step leaves the disk in a state from which the next pass goes on, so
a pass may end anywhere: by a kill, a cancel or an error.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tlserve.core.errors import BuildMismatch, MassDisappearance, StrategyImpossible, TooFewClasses
from tlserve.core.head import Head, apply
from tlserve.core.judge import Answers, Decision, judge
from tlserve.core.lifecycle import Phase, Promotion
from tlserve.core.messages import PassDone, PassJob, ProblemNote, SnapshotTaken
from tlserve.core.plan import Depth, Plan
from tlserve.core.types import LabelledImage, Snapshot, Split
from tlserve.ingest import ReconcileCancelled, ScanRules, group_numbers, reconcile
from tlserve.pipeline.bench import Bench
from tlserve.pipeline.ending import Ending
from tlserve.pipeline.fast import Footing
from tlserve.pipeline.filling import Filler, without
from tlserve.pipeline.learning import Learned, Learner, default_plan
from tlserve.pipeline.precision import BaseBuild
from tlserve.pipeline.reporting import PROBLEMS_TOLD, Findings, first_report, report_later
from tlserve.pipeline.sampling import spread
from tlserve.pipeline.searching import Search
from tlserve.pipeline.telling import Cancelled, Emit, Teller
from tlserve.pipeline.workshop import Workshop
from tlserve.pipeline.worth import check_trainable, fits_wish, keeps_tuned, relevant
from tlserve.release import Draft, LiveState, Manifest, Version
from tlserve.training import TrainingCancelled

log = logging.getLogger("tlserve.pipeline")


def run_pass(job: PassJob, shop: Workshop, emit: Emit, cancelled: Callable[[], bool]) -> PassDone:
    """Do the pass that `job` asks for. Raises TlserveError for what only the operator can mend."""
    one = _Pass(job, shop, Teller(job.job_id, job.model, emit, cancelled))
    try:
        return one.run()
    except TooFewClasses as exc:
        return one.done("waiting", str(exc))
    except MassDisappearance as exc:
        return one.done("disappeared", str(exc))
    except (Cancelled, ReconcileCancelled, TrainingCancelled):
        return one.done("cancelled", "set aside for something more urgent")


class _Pass:
    def __init__(self, job: PassJob, shop: Workshop, teller: Teller) -> None:
        self._job, self._shop, self._teller = job, shop, teller
        self._filler = Filler(Path(job.folder), job.recipe.max_pixels, teller)
        self._base = BaseBuild(shop, job.model, job.recipe, self._filler, teller)
        self._search, self._ending = Search(job, shop), Ending(job, shop)
        self._group_numbers: dict[str, tuple[int, ...]] = {}
        self._more = False
        self._filled: tuple[str, str] | None = None
        """The build at work, and the snapshot whose images all have their rows of it."""

    def run(self) -> PassDone:
        job = self._job
        self._teller.waited(job.noticed_at, job.settled_at)
        self._teller.enter(Phase.SCANNING)
        state = self._shop.versions.live(job.model)
        snapshot = self._reconcile(self._first_images(state))
        if job.recipe.promotion is Promotion.FROZEN and not job.force:
            return self.done("unchanged", f"frozen; thaw with: tlserve promotion {job.model} auto")
        check_trainable(snapshot)

        live = self._shop.versions.load(job.model, state.live) if state.live is not None else None
        # First, as it may settle the precision: a backbone that was tuned at another one is not wanted.
        base = self._base.ready(snapshot, fresh=job.force).name
        if job.tuned is not None and not self._search.is_still_wanted(job.tuned):
            words = "the settings changed since the backbone was fine-tuned, so that is not used"
            return self.done("unchanged", words)
        bench = self._bench(base, live)
        snapshot = self._first_part(bench, snapshot, state)
        snapshot = self._extract(bench, snapshot)
        check_trainable(snapshot)
        study = self._search.is_wanted(snapshot)
        if job.depth in (Depth.INSTANT, Depth.QUICK):
            # The pass that was to learn on it ended early: the model was frozen, say, or lacked a class.
            self._search.ordered = self._search.result() is not None
        if job.depth is not Depth.FULL and job.tuned is None and not job.force:
            ended = self._ending.nothing_to_do(snapshot, bench, state, live)
            if ended is not None:
                self._get_ready(bench, snapshot, self._plan_of(live, bench))
                self._make_up_for_the_report(bench, snapshot, live, waits=bool(ended.get("refine")))
                if self._search.problem:
                    ended["reason"] += f"; {self._search.problem}"
                return self.done(study=study and not ended.get("refine"), **ended)

        try:
            learned = self._learn(bench, snapshot, live)
        except StrategyImpossible as exc:
            if job.depth is not Depth.FULL:
                raise
            self._search.is_impossible(snapshot, str(exc))
            return self.done("unchanged", f"nothing better was looked for: {exc}")
        is_study = job.depth is Depth.FULL
        if is_study and live is not None and self._is_best_already(live, snapshot, bench, learned):
            self._search.ended(bench, snapshot, learned, self._groups(snapshot))
            return self.done("unchanged", f"studied: nothing better than version {live.number} was found")

        self._teller.enter(Phase.JUDGING)
        decision = self._judge(bench, snapshot, learned, live)

        self._teller.enter(Phase.PUBLISHING)
        manifest = self._publish(bench, snapshot, learned, decision, state)
        if job.tuned is not None:
            self._search.learnt()
        if is_study:
            # Not before: what a kill or a full disk took would never be looked for again.
            self._search.ended(bench, snapshot, learned, self._groups(snapshot))
        better_follows = learned.is_fast or self._more
        return self.done(study=study and not better_follows, **self._ending.published(manifest, state))

    def done(self, outcome: str, reason: str, **more: Any) -> PassDone:
        """The end of this pass, with the seconds that each phase took."""
        self._teller.enter(None)
        if self._filled is not None and outcome != "cancelled":
            build, snapshot_id = self._filled
            self._shop.filled[self._job.model, build] = snapshot_id
        return PassDone(
            self._job.job_id,
            self._job.model,
            outcome,
            reason,
            timeline=self._teller.timeline,
            tune=self._search.ordered,
            more=self._more and outcome in ("published", "waiting"),
            **more,
        )

    # -- the steps

    def _first_images(self, state: LiveState) -> int:
        """Of how many images a first version is made that is to come early; 0: of all there are."""
        is_quick = self._job.depth in (Depth.INSTANT, Depth.QUICK) and self._job.tuned is None
        waits = self._job.recipe.promotion is Promotion.FROZEN
        return self._job.recipe.first_images if state.live is None and is_quick and not waits else 0

    def _reconcile(self, most_unread: int) -> Snapshot:
        job, began = self._job, time.perf_counter()
        snapshot = reconcile(
            self._shop.catalog,
            job.model,
            Path(job.folder),
            ScanRules(follow_symlinks=job.recipe.follow_symlinks, max_pixels=job.recipe.max_pixels),
            memory=self._shop.memory(job.model, Path(job.folder)),
            touched=job.touched,
            most_unread=most_unread,
            accept_deletions=job.accept_deletions,
            on_progress=self._teller.tell_with_time_left,
            cancelled=self._teller.cancelled,
        )
        self._teller.check_cancelled()
        self._more = snapshot.n_unread > 0
        problems = snapshot.problems[:PROBLEMS_TOLD]
        self._teller.emit(
            SnapshotTaken(
                job.job_id,
                job.model,
                snapshot.snapshot_id,
                len(snapshot.images),
                snapshot.counts,
                len(snapshot.problems),
                tuple(ProblemNote(p.kind, p.where, p.reason) for p in problems),
                snapshot.files_opened,
                time.perf_counter() - began,
            )
        )
        return snapshot

    def _first_part(self, bench: Bench, snapshot: Snapshot, state: LiveState) -> Snapshot:
        """What a first version is made of: a part, where most images still have to pass the backbone."""
        most = self._first_images(state)
        missing = set(bench.store.missing([image.digest for image in snapshot.images])) if most else set()
        if len(missing) <= 2 * most:
            return snapshot
        wanted = {image.digest for image in spread(snapshot.images, most)}
        part = without(snapshot, missing - wanted)
        try:
            check_trainable(part)
        except TooFewClasses:
            return snapshot
        self._more = True
        return part

    def _bench(self, base: str, live: Version | None) -> Bench:
        """The backbone at work. base: digest of the build that the settings name.

        Where the live version's backbone was fine-tuned from that one, the fine-tuned one is at work, unless
        the settings rule fine-tuning out.
        """
        job = self._job
        if job.tuned is not None:
            return self._shop.bench(job.tuned)
        if live is not None and live.manifest.tuned_from == base and keeps_tuned(live, job.recipe):
            return self._shop.bench(live.manifest.build)
        return self._shop.bench(base)

    def _extract(self, bench: Bench, snapshot: Snapshot) -> Snapshot:
        """Fill the cache for the snapshot; returns it without the images that gave no row."""
        images = snapshot.images
        # Taken away until this pass ends well: after one that did not, every row is looked for again.
        filled = self._shop.filled.pop((self._job.model, bench.spec.digest), None)
        if self._job.depth is Depth.INSTANT and filled is not None and filled == snapshot.based_on:
            images = snapshot.added
        if bench.store.missing([image.digest for image in images]):
            self._teller.enter(Phase.EXTRACTING)
        bad = self._filler.images(bench, images)
        if bad:
            return without(snapshot, bad)
        self._filled = bench.spec.digest, snapshot.snapshot_id
        return snapshot

    def _learn(self, bench: Bench, snapshot: Snapshot, live: Version | None) -> Learned:
        learner, tuned = self._learner(bench, snapshot, live), self._search.tuned_plan(bench, live)
        depth = self._job.depth
        if depth not in (Depth.QUICK, Depth.INSTANT):
            return learner.study(depth, self._shop, tuned=tuned)
        plan = None
        if (
            live is not None
            and live.manifest.build == bench.spec.digest
            and fits_wish(live, self._job.recipe)
        ):
            plan = live.manifest.recipe_plan
        if plan is None:
            plan = default_plan(self._job.recipe, tuned)
        if depth is Depth.INSTANT:
            groups = partial(self._shop.catalog.group_of_each, self._job.model)
            fast = learner.fast(plan, self._shop.fast_heads, groups)
            if fast is not None:
                return fast
        return learner.quick(plan)

    def _plan_of(self, live: Version | None, bench: Bench) -> Plan | None:
        """What the live version's full recipe goes by, if that is still what is wanted."""
        if live is None or live.manifest.build != bench.spec.digest:
            return None
        return live.manifest.recipe_plan if fits_wish(live, self._job.recipe) else None

    def _learner(self, bench: Bench, snapshot: Snapshot, live: Version | None) -> Learner:
        on_this_build = live is not None and live.manifest.build == bench.spec.digest
        return Learner(
            bench,
            snapshot,
            self._job.recipe,
            self._filler,
            self._teller,
            groups=partial(self._groups, snapshot),
            warm=live.head if live is not None and on_this_build else None,
            warm_setting=live.report.get("training", {}).get("C") if live is not None else None,
        )

    def _findings(self, bench: Bench, snapshot: Snapshot, learned: Learned) -> Findings:
        groups = partial(self._groups, snapshot)
        return Findings(Path(self._job.folder), bench, snapshot, learned, groups)

    def _groups(self, snapshot: Snapshot) -> tuple[int, ...]:
        """A number for each training image, the same for near duplicates."""
        if snapshot.snapshot_id not in self._group_numbers:
            images = snapshot.on(Split.TRAIN)
            found = tuple(group_numbers(self._shop.catalog, self._job.model, images))
            self._group_numbers[snapshot.snapshot_id] = found
        return self._group_numbers[snapshot.snapshot_id]

    def _judge(self, bench: Bench, snapshot: Snapshot, learned: Learned, live: Version | None) -> Decision:
        head, refines = learned.trained.head, False
        if live is not None and live.manifest.instant and not learned.is_fast:
            same = (live.manifest.snapshot_id, live.manifest.build)
            refines = same == (snapshot.snapshot_id, bench.spec.digest)
        held_out = snapshot.on(Split.HELD_OUT)
        theirs = None
        if live is not None:
            theirs_bench = self._shop.bench(live.manifest.build)
            if theirs_bench is not bench:
                held_out = self._with_rows(theirs_bench, held_out)
            theirs = self._answers(theirs_bench, live.head, held_out)
        mine = self._answers(bench, head, held_out)
        truth = [image.label for image in held_out]
        # What only looks for something better must not wear a model down, one small loss after the other.
        is_search = self._job.depth is Depth.FULL or self._job.tuned is not None
        policy = replace(self._job.recipe.policy, must_not_lose=is_search, must_gain=refines)
        return judge(truth, mine, theirs, policy)

    def _with_rows(self, bench: Bench, images: tuple[LabelledImage, ...]) -> tuple[LabelledImage, ...]:
        """Those that another build than the one at work has a row of, or gets one of now.

        A build that this host does not reproduce, which is why another one is learnt on, gets none.
        """
        try:
            self._filler.images(bench, images)
        except BuildMismatch as exc:
            log.warning("the live version is judged on the images that it knows from before: %s", exc)
        missing = set(bench.store.missing([image.digest for image in images]))
        return tuple(image for image in images if image.digest not in missing)

    def _answers(self, bench: Bench, head: Head, images: tuple[LabelledImage, ...]) -> Answers:
        rows = bench.store.read([image.digest for image in images], bench.spec.columns(head.taps))
        return Answers(head.labels, apply(head, rows))

    def _publish(
        self, bench: Bench, snapshot: Snapshot, learned: Learned, decision: Decision, state: LiveState
    ) -> Manifest:
        job = self._job
        base = self._search.base
        draft = Draft(
            job_id=job.job_id,
            created=time.time(),
            backbone=job.recipe.backbone,
            build=bench.spec.digest,
            snapshot_id=snapshot.snapshot_id,
            counts=snapshot.counts,
            verdict=decision.verdict,
            reason=decision.reason,
            evidence=decision.evidence,
            accuracy=decision.accuracy,
            accuracy_low=decision.accuracy_low,
            accuracy_high=decision.accuracy_high,
            timeline=dict(self._teller.timeline),
            noticed_at=job.noticed_at,
            judged_against=state.live,
            recipe=relevant(job.recipe),
            plan=learned.plan,
            tuned_from=None if bench.spec.digest == base else base,
            instant=learned.is_fast,
            full_plan=learned.full_plan,
        )
        findings = self._findings(bench, snapshot, learned)
        result = self._search.result() if job.tuned is not None else None
        report = first_report(job.model, draft, findings, decision, result)
        manifest = self._shop.versions.publish(job.model, learned.trained.head, draft, report)
        if learned.is_fast:
            # Its report is worth the time only if it stays: `_make_up_for_the_report` sees to that.
            return manifest
        self._get_ready(bench, snapshot, learned.plan)
        report_later(self._shop, manifest, findings)
        return manifest

    def _get_ready(self, bench: Bench, snapshot: Snapshot, plan: Plan | None) -> None:
        """Have everything warm for the next drop, when there is time."""
        if plan is None or not self._job.recipe.instant or bench.validation or not snapshot.images:
            return
        groups = partial(self._shop.catalog.group_of_each, self._job.model)
        on = Footing(bench, plan.taps, snapshot, groups)
        if self._shop.fast_heads.expect(on):
            self._shop.later(partial(self._shop.fast_heads.get_ready, on))

    # -- studies

    def _make_up_for_the_report(
        self, bench: Bench, snapshot: Snapshot, live: Version | None, *, waits: bool
    ) -> None:
        """Complete the live version's report, if an earlier trainer ended before it came to that.

        waits: whether a refinement is due, which may take the place of a fast version.
        """
        if live is None or live.manifest.plan is None or (live.manifest.instant and waits):
            return
        if (self._job.model, live.number) in self._shop.reported:
            return
        same = (live.manifest.build, live.manifest.snapshot_id) == (bench.spec.digest, snapshot.snapshot_id)
        if same and self._shop.versions.page(self._job.model, live.number) is None:
            learned = self._learner(bench, snapshot, live).quick(live.manifest.plan)
            if learned.trained.head.labels == live.head.labels:
                learned = replace(learned, trained=replace(learned.trained, head=live.head))
            report_later(self._shop, live.manifest, self._findings(bench, snapshot, learned))

    def _is_best_already(self, live: Version, snapshot: Snapshot, bench: Bench, learned: Learned) -> bool:
        """Whether the study ended with what is live; its report then tells of the study too."""
        if self._job.force:
            return False
        manifest = live.manifest
        if manifest.instant:
            return False
        same = (manifest.plan, manifest.snapshot_id, manifest.build)
        if same != (learned.plan, snapshot.snapshot_id, bench.spec.digest):
            return False
        report_later(self._shop, manifest, self._findings(bench, snapshot, learned))
        return True
