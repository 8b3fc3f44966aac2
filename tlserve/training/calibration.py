"""How far probabilities can be trusted: log loss, calibration error, and the temperature that mends them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from tlserve.core.head import Link, link_probabilities
from tlserve.training.arrays import Float32, Ints

N_BINS = 15
_LOG_LIMIT = 4.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """Scores of rows no fit had seen: over the usual temperature of their kind, then over `temperature`."""

    temperature: float
    nll_before: float
    nll_after: float
    ece_before: float
    ece_after: float


def calibrate(logits: Float32, targets: Ints, *, link: Link = "softmax", usual: float = 1.0) -> Calibration:
    """The temperature for these scores.

    logits: (n, n_classes) float32. usual: what scores of this kind are to be divided by for want of any
    evidence; 1 where they are log odds. The temperature minimises the summed log loss + log(T / usual)^2 / 2:
    the second term is a prior that holds T near `usual` while rows are few, and vanishes beside many. So it
    never worsens the loss.
    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks".
    """

    def objective(log_t: float) -> float:
        return nll(logits, targets, usual * float(np.exp(log_t)), link) * len(targets) + log_t**2 / 2

    found = minimize_scalar(objective, bounds=(-_LOG_LIMIT, _LOG_LIMIT), method="bounded")
    best = float(found.x) if found.fun < objective(0.0) else 0.0
    temperature = usual * float(np.exp(best))
    return Calibration(
        temperature=temperature,
        nll_before=nll(logits, targets, usual, link),
        nll_after=nll(logits, targets, temperature, link),
        ece_before=calibration_error(logits, targets, usual, link),
        ece_after=calibration_error(logits, targets, temperature, link),
    )


def nll(logits: Float32, targets: Ints, temperature: float, link: Link = "softmax") -> float:
    """Mean log loss of the link's answers to logits / temperature, in nats."""
    return float(log_losses(logits, targets, temperature, link).mean(dtype=np.float64))


def log_losses(logits: Float32, targets: Ints, temperature: float, link: Link = "softmax") -> Float32:
    """(n,) the log loss of each row, in nats."""
    if link == "sigmoid":
        probabilities = link_probabilities(logits, link=link, temperature=temperature)
        return np.asarray(-np.log(np.maximum(probabilities[np.arange(len(targets)), targets], 1e-30)))
    scaled = logits / np.float32(temperature)
    scaled -= scaled.max(axis=1, keepdims=True)
    of_target = scaled[np.arange(len(targets)), targets]
    return np.asarray(np.log(np.exp(scaled).sum(axis=1)) - of_target)


def calibration_error(logits: Float32, targets: Ints, temperature: float, link: Link = "softmax") -> float:
    """Expected calibration error: how far confidence lies from accuracy, over 15 bins, in [0, 1]."""
    probabilities = link_probabilities(logits, link=link, temperature=temperature)
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = (probabilities.argmax(axis=1) == targets).astype(np.float64)
    bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=N_BINS)
    return float(np.abs(gaps).sum() / len(targets))
