"""One instant fit: ridge, the live head's kind from where it stands if there is time; the better of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tlserve.core.head import Head
from tlserve.core.plan import HeadKind
from tlserve.core.types import Features
from tlserve.training import instant_ridge, instant_warm
from tlserve.training.arrays import Ints
from tlserve.training.compare import Choice, Entry, answers, attempt_of, choose
from tlserve.training.engine import NumpyEngine
from tlserve.training.folds import FoldPlan
from tlserve.training.instant_kept import Kept
from tlserve.training.instant_novelty import novelty_of
from tlserve.training.instant_warm import LiveHead
from tlserve.training.method import LastFit, Workplace, blas_threads
from tlserve.training.reporting import report_of
from tlserve.training.ridge import penalty
from tlserve.training.search import Attempt
from tlserve.training.trained import OutOfFold, TrainedHead

ORDER = list(HeadKind)


class InstantFit:
    """Made for one fit."""

    def __init__(
        self, kept: Kept, budget_seconds: float, live: LiveHead | None, cancelled: Callable[[], bool] | None
    ) -> None:
        self._kept, self._live = kept, live
        self._began = time.perf_counter()
        self._budget = budget_seconds
        self._names = kept.names
        self._truth = kept.validating.targets(self._names)
        self._place = Workplace(NumpyEngine(), kept.seed, cancelled=cancelled)

    def run(
        self, held_out: Features | None, novelty_budget_kb: int, places: Mapping[str, int] | None
    ) -> TrainedHead:
        kept, live = self._kept, None if self._live is None else self._live.head
        with blas_threads(self._flops):
            sums = instant_ridge.sums_of(kept, self._names, self._place)
            ridge = instant_ridge.examine(kept, sums, self._truth, self._place)
            warm, reason = self._warm(ridge.seconds / len(attempt_of(ridge).tried))
            entries = sorted([ridge, *([warm] if warm else [])], key=lambda entry: ORDER.index(entry.kind))
            choice = choose(entries, self._truth)
            last = self._last(choice, sums)
            temperature = choice.attempt.chosen.calibration.temperature
            head = Head(self._names, kept.taps, last.layers, choice.attempt.link, temperature)
            fitted = self._seconds
            head = replace(head, novelty=novelty_of(kept, head, live, held_out, novelty_budget_kb))
        report = self._report(entries, choice) | {
            "warm": last.warm,
            "refit": reason or f"{self._kind} was fitted anew from where it stood",
            "novelty_seconds": round(self._seconds - fitted, 4),
            "seconds": round(self._seconds, 4),
        }
        return TrainedHead(head, choice.attempt.kind, report, self._out_of_fold(choice.attempt, places))

    def _last(self, choice: Choice, sums: instant_ridge.Sums) -> LastFit:
        """The fit on all images."""
        if choice.attempt.kind is HeadKind.RIDGE or self._live is None:
            alpha = penalty(choice.attempt.chosen.setting, self._kept.variance)
            return LastFit((self._kept.scaling.fold_in(sums.parameters(alpha)),))
        return instant_warm.fit(self._kept, self._names, choice.attempt, self._live, self._place)

    @property
    def _flops(self) -> float:
        """Of the largest thing done at once."""
        width, n_rows = len(self._kept.scaling.mean), len(self._kept.validating)
        if self._kept.teaching is not None:
            n_rows += len(self._kept.teaching)
        return max(min(n_rows, width) ** 3 / 3, 4.0 * n_rows * width * len(self._names))

    @property
    def _seconds(self) -> float:
        return time.perf_counter() - self._began

    @property
    def _kind(self) -> str:
        return "nothing" if self._live is None else self._live.kind.value

    def _warm(self, solve_seconds: float) -> tuple[Entry | None, str]:
        """The live head's kind, or None; and why not, if not."""
        reason = instant_warm.refused(self._kept, self._live)
        if reason or self._live is None:
            return None, reason
        # The last solve of ridge may still have to be made.
        left = self._budget - self._seconds - solve_seconds
        entry = instant_warm.examine(
            self._kept, self._names, self._truth, self._live, self._place, seconds_left=left
        )
        return entry, entry.left_out

    def _out_of_fold(self, attempt: Attempt, places: Mapping[str, int] | None) -> OutOfFold:
        digests = self._kept.validating.digests
        images: Ints = np.arange(len(digests))
        if places is not None:
            images = np.fromiter((places[one] for one in digests), dtype=np.intp, count=len(digests))
        order = np.argsort(images)
        return OutOfFold(images[order], answers(attempt)[order], self._truth[order])

    def _report(self, entries: list[Entry], choice: Choice) -> dict[str, Any]:
        n = len(self._truth)
        plan = FoldPlan(np.arange(n), np.zeros(n, dtype=np.intp), 1, 1)
        return report_of(entries, choice, plan) | {
            "instant": True,
            "mixup": None,
            "n_views": 0,
            "n_train": self._kept.n_images,
            "n_validating": n,
            "n_features": len(self._kept.scaling.mean),
            "class_weights": {
                name: self._kept.weight_of(name) for name in self._names if self._kept.weight_of(name) != 1
            },
            "seed": self._kept.seed,
            "device": self._place.engine.device,
        }
