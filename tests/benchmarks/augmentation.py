"""What augmented views gain on held-out images: always learnt from, and where cross-validation keeps them.

    python -m tests.benchmarks augmentation

As in a pass: four fifths are learnt from, and the views of the default settings (two of each image) are
learnt from besides, tried with mixtures and kept or left by cross-validation on these four fifths. The other
fifth never is a view and judges. Also of few images, drawn from the four fifths, as most models begin. Bar:
what is kept is in no case worse by more than two standard errors (5 seeds).

    python -m tests.benchmarks.augmentation FOLDER    keeps the rows there, for the next time
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import train_test_split

from tests.benchmarks.nano import TEACHER, Floats
from tlserve.core.augmentation import Augmentation, policy, view_keys
from tlserve.core.head import apply
from tlserve.core.plan import HeadKind
from tlserve.features import Extractor, FeatureStore
from tlserve.pipeline.learning import gained, mixed
from tlserve.plugin_api import LAST_TAP
from tlserve.plugin_host import PluginHost, make_build
from tlserve.runtime import BackboneSession, choose_device
from tlserve.settings.learning import LearningDefaults
from tlserve.training import Examples, TrainedHead, train

SHARED = Path(__file__).resolve().parents[3] / "shared"
SETS = ("flowers", "hymenoptera")
POLICIES = ("light", "standard")
SIZES = (10, 50, None)
"""Images learnt from of each class; None: all of them."""
SEEDS = range(5)
BEYOND_NOISE = 2.0
"""Standard errors."""
DEFAULTS = LearningDefaults()
HEADS = {"softmax": (HeadKind.SOFTMAX,), "auto": tuple(HeadKind)}
Ints = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Pictures:
    """The rows of one data set."""

    rows: Floats
    """(n_images, n_features)"""
    labels: npt.NDArray[np.str_]
    views: dict[str, Floats]
    """By policy: (n_images, n_views, n_features)."""

    def examples(self, images: Ints, policy_name: str = "") -> Examples:
        """Of these images; with their views where a policy is named."""
        labels = self.labels[images].tolist()
        if not policy_name:
            return Examples.of(self.rows[images], labels)
        views = self.views[policy_name][images]
        of = np.repeat(np.arange(len(images)), views.shape[1])
        return Examples.of(self.rows[images], labels, views=views.reshape(len(of), -1), views_of=of.tolist())


@dataclass(frozen=True, slots=True)
class Score:
    """Of one head, on held-out images."""

    accuracy: float
    log_loss: float

    def over(self, other: Score) -> Score:
        """What this one gains over the other: both numbers are better where they are higher."""
        return Score(self.accuracy - other.accuracy, other.log_loss - self.log_loss)


@dataclass(frozen=True, slots=True)
class Gain:
    """What views gained with one seed over learning without."""

    always: Score
    """Learnt from whatever cross-validation says, and without mixtures."""
    tried: Score
    """As a pass tries them, with mixtures where these help."""
    is_kept: bool
    """Whether cross-validation spoke for what was tried."""

    @property
    def kept(self) -> Score:
        """What a pass makes of it: nothing where the views were left."""
        return self.tried if self.is_kept else Score(0, 0)


def run(shared: Path = SHARED, cache: Path | None = None) -> dict[str, str]:
    """cache: a folder that keeps the rows; else a temporary one."""
    with tempfile.TemporaryDirectory() as scratch:
        sets = read_all(shared, cache or Path(scratch))
    found, worse = {}, []
    for name, pictures in sets.items():
        for size in SIZES:
            for (policy_name, head), gains in measure(pictures, size).items():
                what = f"{name}, {size or 'all'} of a class, {policy_name}, {head}"
                found[what] = told(gains)
                worse += [what] if is_worse([gain.kept.accuracy for gain in gains]) else []
    bar = f"{len(worse)} of {len(found)} (bar 0)"
    return found | {"kept and worse beyond noise": bar + "".join(f"; {what}" for what in worse)}


def read_all(shared: Path, folder: Path) -> dict[str, Pictures]:
    """The rows of the images and views of each set, through the extractor and store that passes use."""
    device = choose_device("cpu")
    build = make_build(PluginHost().load(f"onnx:{shared / TEACHER}"), "benchmark", folder / "builds", device)
    session = BackboneSession.open(build, device, threads=1)
    with FeatureStore(folder / "rows", row_width=session.spec.row_width) as store:
        return {name: read(session, store, shared / "datasets" / name) for name in SETS}


def read(session: BackboneSession, store: FeatureStore, root: Path) -> Pictures:
    files = sorted(root.glob("*/*.jpg"))
    jobs = [(hashlib.sha256(file.read_bytes()).hexdigest(), file) for file in files]
    digests = [digest for digest, _ in jobs]
    missing = set(store.missing(digests))
    extractor = Extractor(session, store)
    extractor.extract([(digest, file) for digest, file in jobs if digest in missing])
    columns = session.spec.columns((LAST_TAP,))

    def views(augmentation: Augmentation) -> Floats:
        extractor.extract_views(jobs, augmentation, DEFAULTS.views)
        keys = [key for digest in digests for key in view_keys(digest, augmentation, DEFAULTS.views)]
        return store.read(keys, columns).reshape(len(files), DEFAULTS.views, -1)

    labels = np.array([file.parent.name for file in files])
    return Pictures(store.read(digests, columns), labels, {name: views(policy(name)) for name in POLICIES})


def measure(pictures: Pictures, size: int | None) -> dict[tuple[str, str], list[Gain]]:
    """One gain for each seed, by policy and head."""
    found: dict[tuple[str, str], list[Gain]] = {}
    for seed in SEEDS:
        for case, gain in one_split(pictures, size, seed):
            found.setdefault(case, []).append(gain)
    return found


def one_split(pictures: Pictures, size: int | None, seed: int) -> Iterator[tuple[tuple[str, str], Gain]]:
    """The gains of one seed."""
    labels = pictures.labels
    learnt, held = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=seed)
    learnt = few(learnt, labels, size, seed)

    def score(trained: TrainedHead) -> Score:
        answers = apply(trained.head, pictures.rows[held])
        truth = np.searchsorted(trained.head.labels, labels[held])
        losses = -np.log(np.maximum(answers[np.arange(len(held)), truth], 1e-12))
        return Score(float((answers.argmax(axis=1) == truth).mean()), float(losses.mean()))

    known: dict[tuple[str, HeadKind], tuple[TrainedHead, TrainedHead]] = {}
    for head, kinds in HEADS.items():
        plain = train(pictures.examples(learnt), (LAST_TAP,), kinds=kinds, seed=seed)
        for name in POLICIES:
            case = name, plain.kind
            if case not in known:
                known[case] = with_views(pictures.examples(learnt, name), plain.kind, seed)
            always, tried = known[case]
            before, is_kept = score(plain), bool(gained(plain, tried)["kept"])
            yield (name, head), Gain(score(always).over(before), score(tried).over(before), is_kept)


def with_views(examples: Examples, kind: HeadKind, seed: int) -> tuple[TrainedHead, TrainedHead]:
    """Learnt from views alone, and as a pass tries it, with mixtures where these help."""
    tried = train(examples, (LAST_TAP,), kinds=(kind,), seed=seed, mixup=DEFAULTS.mixup)
    if not mixed(tried):
        return tried, tried
    return train(examples, (LAST_TAP,), kinds=(kind,), seed=seed), tried


def few(learnt: Ints, labels: npt.NDArray[np.str_], size: int | None, seed: int) -> Ints:
    """At most so many images of each class."""
    order = np.random.default_rng(seed).permutation(learnt)
    chosen = [order[labels[order] == name][:size] for name in np.unique(labels)]
    return np.sort(np.concatenate(chosen))


def is_worse(gains: Sequence[float]) -> bool:
    return float(np.mean(gains)) < -BEYOND_NOISE * standard_error(gains)


def standard_error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def told(gains: Sequence[Gain]) -> str:
    """Points of accuracy, each seed, then what the log loss became lower by."""
    n_kept = sum(gain.is_kept for gain in gains)
    always = _points([gain.always for gain in gains])
    return f"always {always}; kept by {n_kept} of {len(gains)}: {_points([gain.kept for gain in gains])}"


def _points(scores: Sequence[Score]) -> str:
    points = [100 * score.accuracy for score in scores]
    each = ", ".join(f"{one:+.1f}" for one in points)
    nll = [score.log_loss for score in scores]
    loss = f"log loss {-float(np.mean(nll)):+.3f} ± {standard_error(nll):.3f}"
    return f"{np.mean(points):+.2f} ± {standard_error(points):.2f} ({each}), {loss}"


if __name__ == "__main__":
    for what, value in run(cache=Path(sys.argv[1]) if len(sys.argv) > 1 else None).items():
        print(f"{what}: {value}", flush=True)
