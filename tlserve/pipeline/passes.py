"""One pass over one model's folder, from what is on disk to a judged, published version.

Read `_Pass.run` for the story. Every step leaves the disk in a state from which the next pass goes on, so
a pass may end anywhere: by a kill, a cancel or an error.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tlserve.core.errors import MassDisappearance, TooFewClasses
from tlserve.core.head import Head, apply
from tlserve.core.judge import Answers, Decision, judge
from tlserve.core.lifecycle import Phase, Promotion
from tlserve.core.messages import (
    Event,
    ImagesPassed,
    PassDone,
    PassJob,
    ProblemNote,
    Progress,
    Recipe,
    SnapshotTaken,
)
from tlserve.core.types import LabelledImage, Snapshot, Split
from tlserve.features import ExtractionProgress
from tlserve.ingest import ReconcileCancelled, ScanRules, reconcile
from tlserve.pipeline.workshop import Bench, Workshop
from tlserve.plugin_api import LAST_TAP
from tlserve.release import Draft, LiveState, Manifest, Version
from tlserve.training import TrainedHead, TrainingCancelled, train_softmax

PROBLEMS_TOLD = 200
PROGRESS_EVERY_SECONDS = 0.2
TAPS = (LAST_TAP,)

Emit = Callable[[Event], None]


def run_pass(job: PassJob, shop: Workshop, emit: Emit, cancelled: Callable[[], bool]) -> PassDone:
    """Do the pass that `job` asks for. Raises TlserveError for what only the operator can mend."""
    one = _Pass(job, shop, emit, cancelled)
    try:
        return one.run()
    except TooFewClasses as exc:
        return one.done("waiting", str(exc))
    except MassDisappearance as exc:
        return one.done("disappeared", str(exc))
    except (_Cancelled, ReconcileCancelled, TrainingCancelled):
        return one.done("cancelled", "stopped on request")


class _Cancelled(Exception):
    """The daemon asked for the end of this pass."""


class _Pass:
    def __init__(self, job: PassJob, shop: Workshop, emit: Emit, cancelled: Callable[[], bool]) -> None:
        self._job, self._shop, self._emit, self._cancelled = job, shop, emit, cancelled
        self._timeline: dict[str, float] = {}
        self._phase: Phase | None = None
        self._phase_began = self._told_at = 0.0

    def run(self) -> PassDone:
        job = self._job
        self._enter(Phase.SCANNING)
        snapshot = self._reconcile()
        state = self._shop.versions.live(job.model)
        if job.recipe.promotion is Promotion.FROZEN and not job.force:
            return self.done("unchanged", f"frozen; thaw with: tlserve promotion {job.model} auto")
        check_trainable(snapshot)

        bench = self._bench()
        snapshot = self._extract(bench, snapshot)
        check_trainable(snapshot)
        newest = self._newest()
        if newest is not None and not job.force and same_work(newest, snapshot, bench, job.recipe):
            ended = self._already_done(newest, state)
            if ended is not None:
                return ended

        self._enter(Phase.TRAINING)
        live = self._shop.versions.load(job.model, state.live) if state.live is not None else None
        trained = self._train(bench, snapshot, live)

        self._enter(Phase.JUDGING)
        decision = self._judge(bench, snapshot, trained.head, live)

        self._enter(Phase.PUBLISHING)
        manifest = self._publish(bench, snapshot, trained, decision, state)
        return self._published(manifest, state)

    def done(self, outcome: str, reason: str, **more: Any) -> PassDone:
        """The end of this pass, with the seconds that each phase took."""
        self._enter(None)
        return PassDone(self._job.job_id, self._job.model, outcome, reason, timeline=self._timeline, **more)

    # -- the steps

    def _reconcile(self) -> Snapshot:
        job, began = self._job, time.perf_counter()
        snapshot = reconcile(
            self._shop.catalog,
            job.model,
            Path(job.folder),
            ScanRules(follow_symlinks=job.recipe.follow_symlinks, max_pixels=job.recipe.max_pixels),
            accept_deletions=job.accept_deletions,
            on_progress=self._tell,
            cancelled=self._cancelled,
        )
        self._check_cancelled()
        problems = snapshot.problems[:PROBLEMS_TOLD]
        self._emit(
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

    def _bench(self) -> Bench:
        """The backbone at work; making its build the first time may take a while."""
        job = self._job
        if job.force or not self._shop.has_build(job.recipe.backbone):
            self._enter(Phase.EXTRACTING, f"preparing the backbone {job.recipe.backbone}")
        return self._shop.bench(self._shop.build(job.recipe.backbone, fresh=job.force).name)

    def _extract(self, bench: Bench, snapshot: Snapshot) -> Snapshot:
        """Fill the cache for the snapshot; returns it without the images that gave no row."""
        if bench.store.missing([image.digest for image in snapshot.images]):
            self._enter(Phase.EXTRACTING)
        bad = self._fill(bench, snapshot.images)
        if not bad:
            return snapshot
        kept = tuple(image for image in snapshot.images if image.digest not in bad)
        partial = hashlib.sha256("\n".join([snapshot.snapshot_id, *sorted(bad)]).encode()).hexdigest()
        return Snapshot(snapshot.model, partial, kept, snapshot.problems)

    def _fill(self, bench: Bench, images: tuple[LabelledImage, ...]) -> dict[str, str]:
        """Pass the images without a row through the backbone; returns {digest: why it gave none}."""
        missing = set(bench.store.missing([image.digest for image in images]))
        if not missing:
            return {}
        folder = Path(self._job.folder)
        files = {image.digest: folder / image.path for image in images if image.digest in missing}
        extractor = bench.extractor(self._job.recipe.max_pixels)

        def report(progress: ExtractionProgress) -> None:
            self._tell(progress.done, progress.total, progress.images_per_second, progress.seconds_left)

        result = extractor.extract(list(files.items()), on_progress=report, cancelled=self._cancelled)
        self._emit(
            ImagesPassed(
                self._job.job_id, self._job.model, bench.spec.name, result.n_passed, n_bad=len(result.bad)
            )
        )
        bench.keep_speed(result)
        self._check_cancelled()
        return dict(result.bad)

    def _train(self, bench: Bench, snapshot: Snapshot, live: Version | None) -> TrainedHead:
        columns = bench.spec.columns(TAPS)
        train, held_out = snapshot.on(Split.TRAIN), snapshot.on(Split.HELD_OUT)
        warm = live.head if live is not None and live.manifest.build == bench.spec.digest else None
        trained = train_softmax(
            bench.store.read([image.digest for image in train], columns),
            [image.label for image in train],
            TAPS,
            seed=self._job.recipe.seed,
            warm=warm,
            held_out_rows_for_novelty=(
                bench.store.read([image.digest for image in held_out], columns) if held_out else None
            ),
            on_progress=self._tell,
            cancelled=self._cancelled,
        )
        self._check_cancelled()
        return trained

    def _judge(self, bench: Bench, snapshot: Snapshot, head: Head, live: Version | None) -> Decision:
        held_out = snapshot.on(Split.HELD_OUT)
        truth = [image.label for image in held_out]
        mine = self._answers(bench, head, held_out)
        theirs = None
        if live is not None:
            theirs_bench = self._shop.bench(live.manifest.build)
            if theirs_bench is not bench:
                # Another backbone: its held-out rows may not be in its cache yet.
                self._fill(theirs_bench, held_out)
            theirs = self._answers(theirs_bench, live.head, held_out)
        return judge(truth, mine, theirs, self._job.recipe.policy)

    def _answers(self, bench: Bench, head: Head, images: tuple[LabelledImage, ...]) -> Answers:
        rows = bench.store.read([image.digest for image in images], bench.spec.columns(head.taps))
        return Answers(head.labels, apply(head, rows))

    def _publish(
        self, bench: Bench, snapshot: Snapshot, trained: TrainedHead, decision: Decision, state: LiveState
    ) -> Manifest:
        job = self._job
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
            timeline=dict(self._timeline),
            noticed_at=job.noticed_at,
            judged_against=state.live,
            recipe=relevant(job.recipe),
        )
        report = {
            "model": job.model,
            "backbone": {"name": job.recipe.backbone, "build": bench.spec.digest},
            "images": {
                "counts": snapshot.counts,
                "train": len(snapshot.on(Split.TRAIN)),
                "held_out": len(snapshot.on(Split.HELD_OUT)),
            },
            "decision": asdict(decision),
            "training": trained.report,
            "problems": [asdict(problem) for problem in snapshot.problems[:PROBLEMS_TOLD]],
            "n_problems": len(snapshot.problems),
            "timeline": dict(self._timeline),
        }
        return self._shop.versions.publish(job.model, trained.head, draft, report)

    # -- how it ends

    def _newest(self) -> Manifest | None:
        numbers = self._shop.versions.versions(self._job.model)
        return self._shop.versions.manifest(self._job.model, numbers[-1]) if numbers else None

    def _already_done(self, newest: Manifest, state: LiveState) -> PassDone | None:
        """How to end when nothing changed since the newest version; None when it must be judged anew."""
        if newest.version in state.promoted:
            return self.done("unchanged", f"nothing changed since version {newest.version}")
        if newest.verdict == "hold":
            return self.done("unchanged", f"version {newest.version} was held: {newest.reason}")
        if not self._goes_live_by_itself(state):
            return self.done("unchanged", waits(newest))
        if newest.judged_against != state.live:
            # It waited while another version went live; its verdict is about a version that is gone.
            return None
        # Published by a pass whose end the daemon never heard, or while promotion was manual.
        return self._published(newest, state)

    def _published(self, manifest: Manifest, state: LiveState) -> PassDone:
        good = manifest.verdict == "promote"
        automatic = self._goes_live_by_itself(state)
        return self.done(
            "published",
            waits(manifest) if good and not automatic else manifest.reason,
            version=manifest.version,
            promote=good and automatic,
            judged_against=manifest.judged_against,
        )

    def _goes_live_by_itself(self, state: LiveState) -> bool:
        """A first version always does: without one, nothing would answer."""
        return self._job.recipe.promotion is Promotion.AUTO or state.live is None

    # -- clock and progress

    def _enter(self, phase: Phase | None, note: str = "") -> None:
        now = time.perf_counter()
        if self._phase is not None:
            spent = self._timeline.get(self._phase.value, 0.0) + now - self._phase_began
            self._timeline[self._phase.value] = round(spent, 4)
        entered, self._phase, self._phase_began = phase is not self._phase, phase, now
        if phase is not None and (entered or note):
            self._check_cancelled()
            self._emit(Progress(self._job.job_id, self._job.model, phase, note=note))

    def _is_time(self, last: bool) -> bool:
        now = time.perf_counter()
        if last or now - self._told_at >= PROGRESS_EVERY_SECONDS:
            self._told_at = now
            return True
        return False

    def _tell(
        self, done: int, total: int, per_second: float | None = None, seconds_left: float | None = None
    ) -> None:
        if self._phase is not None and self._is_time(done == total):
            self._emit(
                Progress(
                    self._job.job_id, self._job.model, self._phase, done, total, per_second, seconds_left
                )
            )

    def _check_cancelled(self) -> None:
        if self._cancelled():
            raise _Cancelled


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
    settings = newest.recipe if newest.verdict == "hold" else {"seed": newest.recipe.get("seed")}
    return (
        newest.snapshot_id == snapshot.snapshot_id
        and newest.build == bench.spec.digest
        and all(relevant(recipe)[name] == value for name, value in settings.items())
    )


def relevant(recipe: Recipe) -> dict[str, float]:
    """The settings on which a head and its verdict depend."""
    policy = recipe.policy
    return {"seed": recipe.seed, "max_drop": policy.max_drop, "recall_floor": policy.recall_floor}


def waits(manifest: Manifest) -> str:
    """What a candidate waits for, in words."""
    return f"{manifest.reason}; waits for: tlserve promote {manifest.model} {manifest.version}"
