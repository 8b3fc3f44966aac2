"""In which numbers a model's backbone is computed: as the settings say, or as one trial on its images says.

`auto` decides once for a backbone and state, before its first full extraction. The trial's rows go into the
ordinary caches, so what is chosen has passed its sample already. Its verdict stands in spec.json.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tlserve.core.errors import TlserveError, Unavailable
from tlserve.core.lifecycle import Phase
from tlserve.core.messages import Recipe
from tlserve.core.precision import (
    FEWEST_IMAGES,
    Precision,
    PrecisionTrial,
    decided,
    is_fast_enough,
    undecidable,
)
from tlserve.core.types import LabelledImage, Pixels, Snapshot, Split
from tlserve.ingest import group_numbers
from tlserve.pipeline.bench import Bench
from tlserve.pipeline.filling import Filler
from tlserve.pipeline.sampling import MOST_FOR_CALIBRATION, decoded, spread
from tlserve.pipeline.telling import Cancelled, Teller
from tlserve.pipeline.trial_mark import MOST_CUT_SHORT, TrialMark
from tlserve.pipeline.workshop import Workshop
from tlserve.plugin_api import LAST_TAP
from tlserve.plugin_host import reduce_build
from tlserve.runtime import (
    BackboneSession,
    Device,
    hardware_of,
    read_build_spec,
    record_trial,
    this_processor,
)
from tlserve.training import TrainingCancelled, steady_accuracy

log = logging.getLogger("tlserve.pipeline")

MOST_IMAGES = 1_000
"""The two accuracies are measured on that many training images at most."""
FEWEST_FOR_CALIBRATION = 8
"""An int8 build keeps the ranges it was calibrated with: it waits for so many images."""
TIMED_SECONDS = 1.0
FEWEST_TURNS = 5
TIMED_ON_CPU, TIMED_ON_GPU = 8, 32
"""Images in a timed run: a batch as extraction and a busy server run it."""


class BaseBuild:
    """The build that one model's backbone is learnt on, for one pass."""

    def __init__(self, shop: Workshop, model: str, recipe: Recipe, filler: Filler, teller: Teller) -> None:
        self._shop, self._model, self._recipe = shop, model, recipe
        self._filler, self._teller = filler, teller

    def ready(self, snapshot: Snapshot, *, fresh: bool = False) -> Path:
        """Its folder; made, and decided on, if that is still to be done, which may take a while.

        fresh: look at the plugin and its weights again. Raises BackboneNotFound, BackboneProblem also where
        there is no build at the precision that the settings name, StoreUnavailable, Cancelled,
        TrainingCancelled.
        """
        name, wanted = self._recipe.backbone, self._recipe.precision
        if fresh or not self._shop.has_build(name):
            self._enter(f"preparing the backbone {name}")
        plain = self._shop.build(name, fresh=fresh)
        images = snapshot.on(Split.TRAIN)
        if wanted is Precision.AUTO:
            if read_build_spec(plain).trial is None and len(images) >= FEWEST_IMAGES:
                self._decide(plain, images)
            wanted = self._shop.decided(plain)
        if wanted is Precision.FP32:
            return plain
        return self._shop.reduced(plain, wanted) or self._made(plain, wanted, images)

    # -- builds

    def _made(self, plain: Path, precision: Precision, images: Sequence[LabelledImage]) -> Path:
        """The build at this precision, made now; the fp32 one while nothing is there to calibrate it on."""
        pictures = self._pictures(plain, images)
        if precision is Precision.INT8 and len(pictures) < FEWEST_FOR_CALIBRATION:
            if self._shop.bench(plain.name).store.missing([image.digest for image in images]):
                self._enter(f"int8 waits for {FEWEST_FOR_CALIBRATION} training images; fp32 until then")
            return plain
        reduced = self._reduced(plain, precision, pictures)
        # An earlier one may have been open: it was removed by hand, say.
        self._shop.bench(reduced.name).rest()
        trial = read_build_spec(plain).trial
        if trial is not None and trial.chosen == precision:
            record_trial(reduced, trial)
        return reduced

    def _pictures(self, plain: Path, images: Sequence[LabelledImage]) -> Pixels:
        """Real ones to calibrate on."""
        files = [
            self._filler.folder / image.path for image in spread(images, MOST_FOR_CALIBRATION, of_each=1)
        ]
        return decoded(files, read_build_spec(plain).image, self._filler.max_pixels)

    def _reduced(self, plain: Path, precision: Precision, pictures: Pixels) -> Path:
        self._enter(f"making the {precision.value} build of {self._recipe.backbone}")
        return reduce_build(plain, precision, pictures, self._shop.device)

    # -- the trial

    def _decide(self, plain: Path, images: Sequence[LabelledImage]) -> None:
        """Record whether fp32 or something faster is learnt on from now on. Never fails a pass."""
        try:
            trial = self._shop.lost_trial(plain) or self._verdict(plain, images)
            chosen = self._shop.reduced(plain, Precision(trial.chosen))
            if chosen is not None:
                record_trial(chosen, trial)
                self._shop.bench(plain.name).rest()
            elif trial.tried:
                self._forget(plain, Precision(trial.tried))
            # Last: until it stands here, nothing is decided.
            record_trial(plain, trial)
            TrialMark(plain).remove()
        except (TlserveError, OSError) as exc:
            log.warning("the precision of %r is left for the next pass: %s", self._recipe.backbone, exc)
            return
        log.info("backbone %r: %s", self._recipe.backbone, trial.reason)
        self._enter(trial.reason)

    def _forget(self, plain: Path, precision: Precision) -> None:
        """Give the space of what was tried in vain back. Where it cannot be told who is on it, it stays."""
        try:
            self._shop.forget_reduced(plain, precision)
        except TlserveError as exc:
            log.warning("the %s build of %r is kept: %s", precision.value, self._recipe.backbone, exc)

    def _verdict(self, plain: Path, images: Sequence[LabelledImage]) -> PrecisionTrial:
        """What is to be recorded. Raises those errors of ours that may pass, and what cancels."""
        device = self._shop.device
        hardware, now, mark = hardware_of(device), time.time(), TrialMark(plain)
        n_rows = 0 if mark.is_set else self._most_learnt(plain, images)
        if n_rows >= FEWEST_IMAGES:
            reason = f"fp32 is kept: {n_rows:,} images had passed in fp32 before this was tried"
            return undecidable(reason, hardware=hardware, decided_at=now)
        precision, why_not = rival(device)
        if precision is None:
            return undecidable(f"fp32: {why_not}", hardware=hardware, decided_at=now)
        if mark.cut_short >= MOST_CUT_SHORT:
            reason = f"fp32: {mark.cut_short} trials of {precision.value} ended with the trainer (memory?)"
            return undecidable(reason, hardware=hardware, decided_at=now)
        mark.begin()
        try:
            return self._tried(plain, precision, images)
        except (Cancelled, TrainingCancelled):
            mark.set_aside()
            raise
        except Exception as exc:
            if isinstance(exc, TlserveError) and exc.retryable:
                mark.set_aside()
                raise  # a full disk, say: the next pass may do better
            if not isinstance(exc, TlserveError):
                log.exception("the trial of %s failed", precision.value)
            self._forget(plain, precision)
            reason = f"fp32: {precision.value} could not be tried: {exc}"
            return undecidable(reason, hardware=hardware, decided_at=now)

    def _most_learnt(self, plain: Path, images: Sequence[LabelledImage]) -> int:
        """The most training images of one model that have a row on the fp32 build."""
        store, catalog = self._shop.bench(plain.name).store, self._shop.catalog
        sides = [catalog.sides(model) for model in self._shop.versions.models()]
        learners = [[digest for digest, side in one.items() if side is Split.TRAIN] for one in sides]
        learners.append([image.digest for image in images])
        return max(len(digests) - len(store.missing(digests)) for digests in learners)

    def _tried(self, plain: Path, precision: Precision, images: Sequence[LabelledImage]) -> PrecisionTrial:
        pictures = self._pictures(plain, images)
        _check_still_there(len(pictures), FEWEST_FOR_CALIBRATION)
        reduced = self._reduced(plain, precision, pictures)
        benches = self._shop.bench(plain.name), self._shop.bench(reduced.name)
        self._enter(f"trying {precision.value}: how fast it is")
        per_second, times = in_turns(
            benches[0].session, benches[1].session, pictures, cancelled=self._teller.cancelled
        )
        self._teller.check_cancelled()
        sample, accuracies = [], None
        if is_fast_enough(times):
            self._enter(f"trying {precision.value}: how accurate it is")
            sample = self._passed(benches, spread(images, MOST_IMAGES))
            _check_still_there(len(sample), FEWEST_IMAGES)
            accuracies = self._accuracy(benches[0], sample), self._accuracy(benches[1], sample)
        return decided(
            precision,
            images_per_second=per_second,
            times_as_fast=times,
            accuracies=accuracies,
            n_images=len(sample),
            hardware=hardware_of(self._shop.device),
            decided_at=time.time(),
        )

    def _passed(self, benches: Sequence[Bench], sample: Sequence[LabelledImage]) -> list[LabelledImage]:
        """Those of the images that have a row on each build, which is made now if need be."""
        bad = {digest for bench in benches for digest in self._filler.images(bench, sample)}
        return [image for image in sample if image.digest not in bad]

    def _accuracy(self, bench: Bench, sample: Sequence[LabelledImage]) -> float:
        """Cross-validated on what a first version would read; on the same folds for each build."""
        names = sorted({image.label for image in sample})
        return steady_accuracy(
            bench.store.read([image.digest for image in sample], bench.spec.columns((LAST_TAP,))),
            np.array([names.index(image.label) for image in sample], dtype=np.intp),
            len(names),
            groups=np.array(group_numbers(self._shop.catalog, self._model, sample), dtype=np.intp),
            cancelled=self._teller.cancelled,
        )

    def _enter(self, note: str) -> None:
        self._teller.enter(Phase.EXTRACTING, note)


def _check_still_there(n_images: int, fewest: int) -> None:
    """Images that went away meanwhile, with a folder on a network, may come back: that decides nothing."""
    if n_images < fewest:
        raise Unavailable(f"only {n_images} of the images could be read")


def rival(device: Device) -> tuple[Precision | None, str]:
    """What may be faster than fp32 on this device, or why nothing is."""
    if device.is_cuda:
        return Precision.FP16, ""
    if this_processor().int8:
        return Precision.INT8, ""
    return None, "int8 gains nothing on a processor without VNNI or the like"


def in_turns(
    plain: BackboneSession,
    tried: BackboneSession,
    pictures: Pixels,
    *,
    seconds: float = TIMED_SECONDS,
    cancelled: Callable[[], bool] = lambda: False,
) -> tuple[float, float]:
    """Images per second of `plain`, and how many times as fast `tried` is: medians over runs in turns.

    On a CPU what counts is the processor time that a run takes: beside other work the longer of two runs is
    interrupted far more often than the shorter, and by the clock 2.8 times as fast may look like 17 times.
    """
    batch = np.resize(pictures, (TIMED_ON_GPU if plain.device.is_cuda else TIMED_ON_CPU, *pictures.shape[1:]))
    _timed(plain, batch)
    _timed(tried, batch)
    turns: list[tuple[float, float]] = []
    began = time.perf_counter()
    while not cancelled() and (len(turns) < FEWEST_TURNS or time.perf_counter() - began < seconds):
        turns.append((_timed(plain, batch), _timed(tried, batch)))
    if not turns:
        return 0.0, 0.0
    slow, fast = np.array(turns).T
    at_once = 1 if plain.device.is_cuda else plain.threads
    return float(at_once * len(batch) / np.median(slow)), float(np.median(slow / fast))


def _timed(session: BackboneSession, batch: Pixels) -> float:
    """Seconds; on a CPU, of all threads together."""
    clock = time.perf_counter if session.device.is_cuda else time.process_time
    began = clock()
    session.rows(batch)
    return clock() - began
