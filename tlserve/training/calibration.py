"""How far probabilities can be trusted: log loss, calibration error, and the temperature that mends them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from tlserve.core.head import link_probabilities
from tlserve.training.softmax import Float32, Ints

N_BINS = 15
_LOG_LIMIT = 3.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """Scores of rows no fit had seen, before and after division by `temperature`."""

    temperature: float
    nll_before: float
    nll_after: float
    ece_before: float
    ece_after: float


def calibrate(logits: Float32, targets: Ints) -> Calibration:
    """The temperature for these scores.

    logits: (n, n_classes) float32. It minimises the summed log loss + log(T)^2 / 2: the second term is a
    prior that holds T near 1 while rows are few, and vanishes beside many. So it never worsens the loss.
    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks".
    """

    def objective(log_t: float) -> float:
        return nll(logits, targets, float(np.exp(log_t))) * len(targets) + log_t**2 / 2

    found = minimize_scalar(objective, bounds=(-_LOG_LIMIT, _LOG_LIMIT), method="bounded")
    best = float(found.x) if found.fun < objective(0.0) else 0.0
    temperature = float(np.exp(best))
    return Calibration(
        temperature=temperature,
        nll_before=nll(logits, targets, 1.0),
        nll_after=nll(logits, targets, temperature),
        ece_before=calibration_error(logits, targets, 1.0),
        ece_after=calibration_error(logits, targets, temperature),
    )


def nll(logits: Float32, targets: Ints, temperature: float) -> float:
    """Mean log loss of softmax(logits / temperature), in nats."""
    scaled = logits / np.float32(temperature)
    scaled -= scaled.max(axis=1, keepdims=True)
    of_target = scaled[np.arange(len(targets)), targets]
    return float(np.mean(np.log(np.exp(scaled).sum(axis=1)) - of_target, dtype=np.float64))


def calibration_error(logits: Float32, targets: Ints, temperature: float) -> float:
    """Expected calibration error: how far confidence lies from accuracy, over 15 bins, in [0, 1]."""
    probabilities = link_probabilities(logits, link="softmax", temperature=temperature)
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = (probabilities.argmax(axis=1) == targets).astype(np.float64)
    bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=N_BINS)
    return float(np.abs(gaps).sum() / len(targets))
