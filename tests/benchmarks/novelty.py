"""Whether novelty tells what no class is like: held-out flowers against ants and bees, of which many sit on
flowers.

    python -m tests.benchmarks novelty

Five stratified splits: four fifths of the flowers are learnt from, the fifth that is left and all ants and
bees are scored, and the AUROC of novelty stands beside that of maximum probability. Bars: 0.03 above it for
the shared backbone, mean of 5 splits, and 256 KB. The cosine distance to the five nearest of all rows is what
an unlimited budget would buy.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedShuffleSplit

from tests.benchmarks.nano import TEACHER, Floats, folder, opened, rows
from tlserve.core.head import Head, answers, apply, novelty_scores
from tlserve.plugin_host import PluginHost
from tlserve.release.head_file import head_to_bytes
from tlserve.training import train_softmax

SHARED = Path(__file__).resolve().parents[3] / "shared"
BAR = 0.03
BUDGET_KB = 256
N_SPLITS = 5
TAPS = ("features",)


@dataclass(frozen=True)
class Split:
    """AUROCs of one split, and the share of the new called unknown where 5 % of the known are."""

    probability: float
    all_rows: float
    novelty: float
    found_at_95: float


def run(shared: Path = SHARED) -> dict[str, str]:
    known, labels = folder(shared / "datasets/flowers")
    new, _ = folder(shared / "datasets/hymenoptera")
    found = {}
    for who, name in (("shared MobileNetV2", f"onnx:{shared / TEACHER}"), ("nano", "nano")):
        with tempfile.TemporaryDirectory() as scratch:
            session = opened(PluginHost().load(name), Path(scratch))
            columns = session.spec.columns(TAPS)
            features, others = rows(session, known)[:, columns], rows(session, new)[:, columns]
        found |= {f"{what}, {who}": value for what, value in measure(features, labels, others).items()}
    return found


def measure(features: Floats, labels: npt.NDArray[np.str_], new: Floats) -> dict[str, str]:
    """features, labels: of the known images; new: rows of what is of none of their classes."""
    splits, head = [], None
    shuffle = StratifiedShuffleSplit(N_SPLITS, test_size=0.2, random_state=0)
    for seed, (learnt, held) in enumerate(shuffle.split(features, labels)):
        head = train_softmax(
            features[learnt],
            labels[learnt].tolist(),
            TAPS,
            seed=seed,
            held_out_rows_for_novelty=features[held],
        ).head
        splits.append(_split(head, features[learnt], features[held], new))
    assert head is not None
    gain = np.mean([split.novelty - split.probability for split in splits])
    return {
        "AUROC of maximum probability": _told([split.probability for split in splits]),
        "AUROC of the 5 nearest of all rows": _told([split.all_rows for split in splits]),
        "AUROC of novelty": _told([split.novelty for split in splits]),
        "gain over maximum probability": f"{gain:+.3f} (bar {BAR:+.2f})",
        "new images above 0.95": _told([split.found_at_95 for split in splits]),
        **_cost(head, features),
    }


def _split(head: Head, learnt: Floats, held: Floats, new: Floats) -> Split:
    novelty = novelty_scores(head, held), novelty_scores(head, new)
    return Split(
        probability=_auroc(-apply(head, held).max(axis=1), -apply(head, new).max(axis=1)),
        all_rows=_auroc(_nearest(learnt, held), _nearest(learnt, new)),
        novelty=_auroc(*novelty),
        found_at_95=float(np.mean(novelty[1] > 0.95)),
    )


def _cost(head: Head, features: Floats) -> dict[str, str]:
    """What the block adds to the head's file, and to the time of an answer."""
    tensors = load(head_to_bytes(head))
    size = sum(tensor.nbytes for name, tensor in tensors.items() if name.startswith("novelty."))
    of_rows = tensors["novelty.centroids"].shape[0]
    found = {"novelty in the head's file": f"{size / 1024:.0f} KB, {of_rows} centres (bar {BUDGET_KB} KB)"}
    for n_rows, repeats in ((1, 500), (1_024, 10)):
        some = features[:n_rows]
        added = _seconds(head, some, repeats, with_novelty=True) - _seconds(head, some, repeats)
        found[f"novelty, microseconds a row, {n_rows} at once"] = f"{added / n_rows * 1e6:.0f}"
    return found


def _nearest(learnt: Floats, some: Floats) -> Floats:
    learnt, some = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (learnt, some))
    return np.asarray(1 - np.sort(some @ learnt.T, axis=1)[:, -5:].mean(axis=1))


def _auroc(known: Floats, new: Floats) -> float:
    return float(roc_auc_score(np.repeat([0, 1], [len(known), len(new)]), np.concatenate([known, new])))


def _told(scores: list[float]) -> str:
    return f"{np.mean(scores):.3f} ({', '.join(f'{score:.3f}' for score in scores)})"


def _seconds(head: Head, some: Floats, repeats: int, *, with_novelty: bool = False) -> float:
    """The middling time of one answer to all of `some`."""
    answer, times = (answers if with_novelty else apply), []
    for _ in range(repeats):
        began = time.perf_counter()
        answer(head, some)
        times.append(time.perf_counter() - began)
    return float(np.median(times))


if __name__ == "__main__":
    for what, value in run().items():
        print(f"{what}: {value}")
