"""How many wrong labels are found: 5 % of the flowers get another class, and the most suspicious are counted.

    python -m tests.benchmarks mislabelled

As in a pass: four fifths of the images are learnt from, wrong labels and all, and judged out of fold; the
fifth that is held out is judged by the head. Bar: of the equally many most suspicious images, at least 70 %
are planted ones (mean of 5 seeds).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import train_test_split

from tests.benchmarks.nano import TEACHER, Floats, folder, opened, rows
from tlserve.core.head import apply
from tlserve.core.plan import HeadKind
from tlserve.plugin_host import PluginHost
from tlserve.training import Examples, likely_mislabelled, train
from tlserve.training.suspects import by_suspicion

SHARED = Path(__file__).resolve().parents[3] / "shared"
PLANTED = 0.05
BAR = 0.70
SEEDS = range(5)
TAPS = ("features",)
KINDS = (HeadKind.SOFTMAX, HeadKind.RIDGE)
Ints = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Hunt:
    """What was found among images of which `n_planted` bear a wrong label."""

    n_planted: int
    first: float
    """Of the n_planted most suspicious, the share that was planted."""
    n_called: int
    """Images called mislabelled, however many were planted."""
    right_calls: float
    """Of these, the share that was planted; 0 where none was."""
    seconds: float


def run(shared: Path = SHARED) -> dict[str, str]:
    files, labels = folder(shared / "datasets/flowers")
    with tempfile.TemporaryDirectory() as scratch:
        session = opened(PluginHost().load(f"onnx:{shared / TEACHER}"), Path(scratch))
        features = rows(session, files)[:, session.spec.columns(TAPS)]
    return measure(features, labels)


def measure(features: Floats, labels: npt.NDArray[np.str_]) -> dict[str, str]:
    """features: (n_images, n_features); labels: (n_images,) as they should be."""
    names, truth = np.unique(labels, return_inverse=True)
    hunt(features, truth, names.tolist(), HeadKind.SOFTMAX, share=0, seed=0)  # cleanlab's import
    found = {}
    for kind in KINDS:
        hunts = [hunt(features, truth, names.tolist(), kind, share=PLANTED, seed=seed) for seed in SEEDS]
        each = ", ".join(f"{100 * one.first:.0f}" for one in hunts)
        share = f"{100 * np.mean([one.first for one in hunts]):.1f} % ({each}; bar {BAR:.0%})"
        found[f"planted among the {hunts[0].n_planted} most suspicious, {kind}"] = share
        called = np.mean([one.n_called for one in hunts]), 100 * np.mean([one.right_calls for one in hunts])
        found[f"called mislabelled, {kind}"] = f"{called[0]:.0f}, of which planted {called[1]:.0f} %"
    clean = hunt(features, truth, names.tolist(), HeadKind.SOFTMAX, share=0, seed=0)
    found["called mislabelled with no label planted"] = f"{clean.n_called} of {len(labels)}"
    found["time to find them, the fits apart"] = f"{1000 * clean.seconds:.0f} ms"
    return found


def hunt(
    features: Floats, truth: Ints, names: Sequence[str], kind: HeadKind, *, share: float, seed: int
) -> Hunt:
    """Plant wrong labels, learn, and look for them."""
    random = np.random.default_rng(seed)
    planted = random.choice(len(truth), round(share * len(truth)), replace=False)
    targets = truth.copy()
    targets[planted] = (truth[planted] + random.integers(1, len(names), len(planted))) % len(names)
    learnt, held = train_test_split(np.arange(len(truth)), test_size=0.2, stratify=targets, random_state=seed)
    examples = Examples.of(features[learnt], [names[target] for target in targets[learnt]])
    trained = train(examples, TAPS, kinds=(kind,), seed=seed)
    fold = trained.out_of_fold
    images = np.concatenate([learnt[fold.images], held])
    answers = np.concatenate([fold.probabilities, apply(trained.head, features[held])])
    began = time.perf_counter()
    called = [images[one.position] for one in likely_mislabelled(answers, targets[images], names)]
    seconds = time.perf_counter() - began
    first = images[by_suspicion(answers, targets[images])][: len(planted)]
    return Hunt(
        n_planted=len(planted),
        first=float(np.isin(first, planted).mean()) if len(planted) else 0.0,
        n_called=len(called),
        right_calls=float(np.isin(called, planted).mean()) if called else 0.0,
        seconds=seconds,
    )


if __name__ == "__main__":
    for what, value in run().items():
        print(f"{what}: {value}")
