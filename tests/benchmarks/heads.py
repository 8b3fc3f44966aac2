"""Every kind of head and `auto` on real rows, beside scikit-learn's; and what cached rows save.

    python -m tests.benchmarks heads

Pictures go once through the shared MobileNetV2 with the decoder, build and session that the daemon uses. Each
set is cut into five stratified fifths, each of which is held out once; settings, temperature and `auto`'s
choice see the other four only. Answers for all held-out fifths are pooled to judge probabilities.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import StratifiedKFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import LinearSVC

from tests.benchmarks import nano
from tlserve.core.head import apply, projection_matrix
from tlserve.core.plan import HeadKind
from tlserve.plugin_api import LAST_TAP
from tlserve.plugin_host import PluginHost
from tlserve.training import Examples, TrainedHead, train
from tlserve.training.calibration import N_BINS
from tlserve.training.engine import Fits
from tlserve.training.linear import solve
from tlserve.training.ridge import PROJECTION_SEED, PROJECTION_WIDTH, total_variance
from tlserve.training.scaling import Scaling

BARS = {"flowers": 0.875, "hymenoptera": 0.95}
ECE_BAR = 0.01
DRAWS = 300
FASTER = 100
TAPS = (LAST_TAP,)
Floats = npt.NDArray[np.float64]


def run(shared: Path = nano.SHARED) -> dict[str, str]:
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        backbone = PluginHost().load(f"onnx:{shared / nano.TEACHER}")
        session = nano.opened(backbone, Path(scratch))
        columns = session.spec.columns(TAPS)
        for name, bar in BARS.items():
            files, labels = nano.folder(shared / "datasets" / name)
            began = time.perf_counter()
            rows = nano.rows(session, files)[:, columns]
            extraction = time.perf_counter() - began
            if name == "flowers":
                found |= epochs(rows, labels, extraction)
            found |= {f"{name}, {who}": words for who, words in heads(rows, labels, bar).items()}
    return found


def heads(rows: nano.Floats, labels: npt.NDArray[np.str_], bar: float) -> dict[str, str]:
    """A line for each kind, and one for `auto`."""
    lines = {}
    for name, kinds in [*((kind.value, [kind]) for kind in HeadKind), ("auto", list(HeadKind))]:
        tally = Tally()
        for learnt, held in StratifiedKFold(5, shuffle=True, random_state=0).split(rows, labels):
            trained = train(Examples.of(rows[learnt], labels[learnt].tolist()), TAPS, kinds=kinds)
            tally.add(trained, rows[held], labels[held])
            if len(kinds) == 1:
                model = twin(trained, rows[learnt]).fit(rows[learnt], labels[learnt])
                tally.twins.append(float(model.score(rows[held], labels[held])))
        lines[name] = tally.words(bar if name == "auto" else None)
    return lines


@dataclass
class Tally:
    """Held-out fifths of one kind."""

    scores: list[float] = field(default_factory=list)
    twins: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    calibrated: list[Floats] = field(default_factory=list)
    unscaled: list[Floats] = field(default_factory=list)
    truth: list[npt.NDArray[np.intp]] = field(default_factory=list)

    def add(self, trained: TrainedHead, rows: nano.Floats, labels: npt.NDArray[np.str_]) -> None:
        head = trained.head
        truth = np.searchsorted(head.labels, labels)
        answers = apply(head, rows).astype(np.float64)
        self.scores.append(float((answers.argmax(axis=1) == truth).mean()))
        self.seconds.append(trained.report["seconds"])
        self.kinds[trained.kind.value] += 1
        self.calibrated.append(answers)
        self.unscaled.append(apply(replace(head, temperature=1.0), rows).astype(np.float64))
        self.truth.append(truth)

    def words(self, bar: float | None) -> str:
        answers, unscaled, truth = (
            np.concatenate(part) for part in (self.calibrated, self.unscaled, self.truth)
        )
        error, perfect = ece(answers, truth), perfect_ece(answers)
        parts = [
            f"{100 * np.mean(self.scores):.2f} % ({', '.join(f'{100 * one:.1f}' for one in self.scores)})"
            + (f" (bar {bar:.1%})" if bar else ""),
            f"scikit-learn {100 * np.mean(self.twins):.2f} %" if self.twins else f"chose {dict(self.kinds)}",
            f"ECE {error:.4f}, perfect {perfect:.4f} (bar +{ECE_BAR})",
            f"log loss {log_loss(answers, truth):.4f}, unscaled {log_loss(unscaled, truth):.4f}",
            f"{np.mean(self.seconds):.2f} s",
        ]
        return "; ".join(parts)


def twin(trained: TrainedHead, rows: nano.Floats) -> Any:
    """The same kind in scikit-learn, with the setting that was chosen here."""
    kind, setting = trained.kind, trained.report.get("C")
    scaled = Scaling.of(rows).apply(rows)
    if kind is HeadKind.SOFTMAX:
        model = LogisticRegression(C=setting, max_iter=500)
    elif kind is HeadKind.OVR:
        model = OneVsRestClassifier(LogisticRegression(C=setting, max_iter=500))
    elif kind is HeadKind.SVM:
        model = LinearSVC(C=setting, intercept_scaling=100, dual=False)
    elif kind is HeadKind.RIDGE:
        model = RidgeClassifier(alpha=trained.report["penalty"] * total_variance(scaled))
    elif kind is HeadKind.PROJECTION:
        ridge = RidgeClassifier(alpha=trained.report["penalty"] * total_variance(projected(scaled)))
        model = make_pipeline(FunctionTransformer(projected), ridge)
    else:
        model = MLPClassifier((512,), early_stopping=True, random_state=0)
    return make_pipeline(StandardScaler(), model)


def projected(rows: Any) -> Any:
    return np.maximum(rows @ projection_matrix(PROJECTION_SEED, rows.shape[1], PROJECTION_WIDTH), 0)


def ece(answers: Floats, truth: npt.NDArray[np.intp]) -> float:
    """Expected calibration error over 15 bins."""
    confidence, right = answers.max(axis=1), answers.argmax(axis=1) == truth
    bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    return float(np.abs(np.bincount(bins, weights=confidence - right, minlength=N_BINS)).sum() / len(truth))


def perfect_ece(answers: Floats) -> float:
    """The same of a model whose every probability is true: classes are drawn from its own answers."""
    random = np.random.default_rng(0)
    steps = np.cumsum(answers / answers.sum(axis=1, keepdims=True), axis=1)
    draws = (random.random((DRAWS, len(answers), 1)) > steps).sum(axis=2).clip(max=answers.shape[1] - 1)
    return float(np.mean([ece(answers, drawn) for drawn in draws]))


def log_loss(answers: Floats, truth: npt.NDArray[np.intp]) -> float:
    return float(-np.log(np.maximum(answers[np.arange(len(truth)), truth], 1e-12)).mean())


def epochs(rows: nano.Floats, labels: Sequence[str], extraction_seconds: float) -> dict[str, str]:
    """One fit of a softmax head, its passes counted: rows from memory, or images through the backbone each
    time."""
    _, targets = np.unique(np.asarray(labels), return_inverse=True)
    fits = Fits(Scaling.of(rows).apply(rows), targets, np.ones((1, len(rows)), np.float32), targets.max() + 1)
    n_passes = 0

    def count() -> bool:
        nonlocal n_passes
        n_passes += 1
        return False

    began = time.perf_counter()
    solve(fits, 10 / rows.shape[1], None, count)
    fit = time.perf_counter() - began
    through = extraction_seconds + fit / n_passes
    return {
        "an epoch through the backbone over one from rows": (
            f"{through / (fit / n_passes):.0f} (bar {FASTER}; {extraction_seconds:.1f} s and "
            f"{1000 * fit / n_passes:.1f} ms for {len(rows)} images)"
        ),
        f"{n_passes} epochs through the backbone over extraction and {n_passes} from rows": (
            f"{n_passes * through / (extraction_seconds + fit):.0f} "
            f"({n_passes * through:.0f} s, reckoned, and {extraction_seconds + fit:.1f} s)"
        ),
    }
