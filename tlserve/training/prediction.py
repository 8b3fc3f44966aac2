"""How long `train` will take, reckoned before it begins from its arithmetic and the speed of this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from tlserve.core.plan import HeadKind
from tlserve.training.engine import Fits, NumpyEngine
from tlserve.training.folds import plan_size
from tlserve.training.lesson import Exam, Lesson
from tlserve.training.margins import OVR, SOFTMAX, SVM
from tlserve.training.method import Method
from tlserve.training.mlp import MLP
from tlserve.training.ridge import PROJECTION, RIDGE

METHODS: tuple[Method, ...] = (SOFTMAX, OVR, SVM, RIDGE, PROJECTION, MLP)
SLOWER = {HeadKind.OVR: 1.6, HeadKind.SVM: 1.6}
"""Their losses take more than the products that their flops count, and more evaluations."""
_FIXED_SECONDS = 0.05
"""Scaling, calibration and novelty of however few rows."""
_SECONDS_PER_VALUE = 1.5e-8
"""The same by number of rows times width."""


def predicted_seconds(
    kinds: Sequence[HeadKind],
    *,
    n_images: int,
    n_features: int,
    n_classes: int,
    flops_per_second: float,
    n_views: int = 0,
) -> float:
    """About how long `train` will take with these kinds and sizes, without mixtures.

    n_views: rows of augmented views beside those of the images. flops_per_second: as `measured_speed` says.
    """
    exam, lesson = _sizes(n_images, n_features, n_classes, n_views)
    flops = sum(
        SLOWER.get(method.kind, 1.0) * method.flops(exam, lesson)
        for method in METHODS
        if method.kind in kinds
    )
    around = _FIXED_SECONDS + _SECONDS_PER_VALUE * float(n_images + n_views) * n_features
    return around + flops / flops_per_second


def measured_speed() -> float:
    """Flops per second of the products that a fit makes, measured now on one thread in some 10 ms."""
    rows = np.ones((1_024, 1_024), np.float32)
    fits = Fits(rows, np.zeros(len(rows), dtype=np.intp), np.ones((1, len(rows)), np.float32), 8)
    parameters = np.zeros(fits.shape, np.float32)
    best = min(_seconds(fits, parameters) for _ in range(4))
    return fits.flops / best


def _seconds(fits: Fits, parameters: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> float:
    began = time.perf_counter()
    NumpyEngine().data_loss(fits, parameters)
    return time.perf_counter() - began


def _sizes(n_images: int, n_features: int, n_classes: int, n_views: int) -> tuple[Exam, Lesson]:
    """An exam and a lesson of these sizes, which hold nothing."""
    each = (n_images + n_views) / n_images
    n_chosen, _, n_fits = plan_size(n_images, n_classes, n_features, each)
    part = _empty_lesson(round(n_chosen * each), n_features, n_classes)
    nobody = np.broadcast_to(np.intp(0), n_chosen)
    return Exam(part, part.targets, n_fits, nobody, nobody), _empty_lesson(
        n_images + n_views, n_features, n_classes
    )


def _empty_lesson(n_rows: int, n_features: int, n_classes: int) -> Lesson:
    zero = np.float32(0)
    return Lesson(
        np.broadcast_to(zero, (n_rows, n_features)),
        np.broadcast_to(np.intp(0), n_rows),
        np.broadcast_to(zero, n_rows),
        n_classes,
    )
