"""From rows and labels to a head in one call: standardise, choose the penalty, fit, calibrate."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from tlserve.core.errors import NonFiniteRow
from tlserve.core.head import Dense, Head
from tlserve.core.types import Features
from tlserve.training.folds import FoldPlan, plan_folds
from tlserve.training.novelty import fit_novelty
from tlserve.training.scaling import Scaling
from tlserve.training.search import GRID, USUAL_STEP, CrossValidation, Trial, best_step, climb
from tlserve.training.softmax import Fits, Float32, Float64, Ints, loss_and_gradient, solve

EVEN = 3.0
"""Classes up to this much smaller than the largest count as they are."""
HEAVIEST = 10.0
FLOPS_FOR_THREADS = 1e9
"""Below this per evaluation a second BLAS thread waits more than it works, and steals from serving."""
_N_FITS = len(GRID) + 1


@dataclass(frozen=True, eq=False)
class TrainedHead:
    """A head and how it came about; the report is ready for JSON."""

    head: Head
    report: dict[str, Any]


def train_softmax(
    rows: Features,
    labels: Sequence[str],
    taps: tuple[str, ...],
    *,
    seed: int = 0,
    warm: Head | None = None,
    held_out_rows_for_novelty: Features | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> TrainedHead:
    """Train a softmax head on bottleneck rows.

    rows: (n_images, n_features) float32, raw. labels: the class of each. taps: what the columns are.
    warm: the head before this one; where it reads the same columns the last fit starts from it, if that is
    the better start. The folds never do: it may have seen what they validate on.
    held_out_rows_for_novelty: (any, n_features), used for the scale of novelty and for nothing else.
    on_progress(done, total) counts fits. The same arguments give the same head.
    Raises ValueError for fewer than two labels or shapes that do not match, NonFiniteRow,
    TrainingCancelled.
    """
    started = time.perf_counter()
    names, targets = _targets(rows, labels)
    tell = on_progress or (lambda done, total: None)
    scaling = Scaling.of(rows)
    standardised = scaling.apply(rows)
    class_weights = weigh_classes(targets, len(names))
    plan = plan_folds(targets, len(names), rows.shape[1], np.random.default_rng(seed))
    tried = _search(CrossValidation(standardised, targets, class_weights, plan, cancelled), tell)
    chosen = tried[best_step(tried)]
    whole = Fits(standardised, targets, class_weights[targets][None, :], len(names))
    older = _warm_start(warm, names, taps, scaling, chosen.parameters)
    parameters, is_warm = _last_fit(whole, chosen, older, cancelled)
    head = Head(
        labels=names,
        taps=taps,
        layers=(scaling.fold_in(parameters),),
        temperature=chosen.calibration.temperature,
        novelty=fit_novelty(scaling, standardised, targets, len(names), held_out_rows_for_novelty),
    )
    tell(_N_FITS, _N_FITS)
    report = _report(tried, chosen, plan, dict(zip(names, class_weights.tolist(), strict=True)))
    report |= {"n_train": len(rows), "n_features": rows.shape[1], "seed": seed, "warm": is_warm}
    return TrainedHead(head, report | {"seconds": round(time.perf_counter() - started, 4)})


def weigh_classes(targets: Ints, n_classes: int) -> Float32:
    """How much a row of each class counts: (n_classes,) float32, at least 1.

    A class up to 3 times smaller than the largest counts as it is; a smaller one is raised to a third of
    the largest, at most tenfold. So there is no jump at the ratio of 3, and no single image rules.
    """
    counts = np.bincount(targets, minlength=n_classes)
    weights: Float32 = np.clip(counts.max() / np.maximum(counts, 1) / EVEN, 1, HEAVIEST).astype(np.float32)
    return weights


def _targets(rows: Features, labels: Sequence[str]) -> tuple[tuple[str, ...], Ints]:
    if rows.ndim != 2 or len(rows) != len(labels):
        raise ValueError(f"rows of shape {rows.shape} do not match {len(labels)} labels")
    names = tuple(sorted(set(labels)))
    if len(names) < 2:
        raise ValueError(f"a classifier needs at least two labels, not {len(names)}")
    if not np.isfinite(rows).all():
        raise NonFiniteRow("a training row holds NaN or infinity")
    index = {name: position for position, name in enumerate(names)}
    return names, np.fromiter((index[label] for label in labels), dtype=np.intp, count=len(labels))


def _last_fit(
    whole: Fits, chosen: Trial, older: Float64 | None, cancelled: Callable[[], bool] | None
) -> tuple[Float64, bool]:
    """The fit on all rows, (n_classes, n_features + 1), and whether it began at `older`."""
    with _blas_threads(whole):
        start, is_warm = chosen.parameters, False
        if older is not None:
            ours, theirs = (
                loss_and_gradient(whole, chosen.penalty_c, at.ravel())[0] for at in (start, older)
            )
            is_warm = theirs < ours
        begin = older if is_warm and older is not None else start
        return solve(whole, chosen.penalty_c, begin[None], cancelled)[0], is_warm


def _warm_start(
    warm: Head | None, names: tuple[str, ...], taps: tuple[str, ...], scaling: Scaling, otherwise: Float64
) -> Float64 | None:
    """The older head's parameters on standardised rows, classes it lacks as in `otherwise`; none if it is
    of another form."""
    n_features = otherwise.shape[1] - 1
    if warm is None or warm.link != "softmax" or (warm.taps, warm.n_features) != (taps, n_features):
        return None
    (layer, *more) = warm.layers
    if more or not isinstance(layer, Dense):
        return None
    older, start = scaling.unfold(layer), otherwise.copy()
    for position, name in enumerate(names):
        if name in warm.labels:
            start[position] = older[warm.labels.index(name)]
    return start


def _search(folds: CrossValidation, tell: Callable[[int, int], None]) -> dict[int, Trial]:
    done = 0

    def try_step(step: int) -> Trial:
        nonlocal done
        trial = folds.try_penalty(GRID[step] / folds.fits.rows.shape[1])
        done += 1
        tell(done, _N_FITS)
        return trial

    tell(0, _N_FITS)
    with _blas_threads(folds.fits):
        return climb(try_step, len(GRID), USUAL_STEP)


def _blas_threads(fits: Fits) -> AbstractContextManager[object]:
    if fits.flops >= FLOPS_FOR_THREADS:
        return nullcontext()
    limits: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="blas")
    return limits


def _report(
    tried: dict[int, Trial], chosen: Trial, plan: FoldPlan, class_weights: dict[str, float]
) -> dict[str, Any]:
    return {
        "method": "softmax regression, L-BFGS, C by cross-validation",
        "C": chosen.penalty_c,
        "cv_accuracy": chosen.accuracy,
        "temperature": chosen.calibration.temperature,
        "out_of_fold": asdict(chosen.calibration),
        "grid": [
            {"C": trial.penalty_c, "accuracy": trial.accuracy, **asdict(trial.calibration)}
            for _, trial in sorted(tried.items())
        ],
        "folds": {"n_folds": plan.n_folds, "n_fits": plan.n_fits, "n_rows": len(plan.rows)},
        "class_weights": {name: weight for name, weight in class_weights.items() if weight != 1},
    }
