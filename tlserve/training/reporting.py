"""What training tells: its progress while it runs, and its report, ready for JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from tlserve.training.arrays import Float32
from tlserve.training.compare import Choice, Entry, table
from tlserve.training.folds import FoldPlan
from tlserve.training.method import Method


class Steps:
    """Progress over all kinds, in trials: rising, to a total that is known from the start."""

    def __init__(self, methods: Sequence[Method], mixup: bool, tell: Callable[[int, int], None]) -> None:
        most_mixed = max(method.most_trials for method in methods) if mixup else 0
        self._total = sum(method.most_trials for method in methods) + most_mixed + 1
        self._done = self._before = 0
        self._tell = tell
        tell(0, self._total)

    def tell(self) -> None:
        self._done = min(self._done + 1, self._total - 1)
        self._tell(self._done, self._total)

    def end(self, method: Method) -> None:
        """A kind may end before it has made all its trials, or be left out."""
        self._before += method.most_trials
        if self._done < self._before:
            self._done = self._before
            self._tell(self._done, self._total)

    def finish(self) -> None:
        self._tell(self._total, self._total)


def report_of(entries: Sequence[Entry], choice: Choice, plan: FoldPlan) -> dict[str, Any]:
    """Which head it is and why, and what cross-validation said of it and of the others."""
    attempt, trial = choice.attempt, choice.attempt.chosen
    return {
        "kind": attempt.kind.value,
        "method": choice.entry.method.described,
        attempt.setting_name: trial.setting,
        "cv_accuracy": trial.accuracy,
        "temperature": trial.calibration.temperature,
        "choice": choice.sentence,
        "comparison": table(entries, choice),
        "out_of_fold": asdict(trial.calibration),
        "grid": attempt.grid,
        "folds": {"n_folds": plan.n_folds, "n_fits": plan.n_fits, "n_rows": len(plan.rows)},
    }


def raised(names: tuple[str, ...], class_weights: Float32) -> dict[str, float]:
    """The weights of classes that count for more than they are."""
    pairs = zip(names, class_weights.tolist(), strict=True)
    return {name: weight for name, weight in pairs if weight != 1}
