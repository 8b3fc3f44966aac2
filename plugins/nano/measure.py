"""Measure what a linear head reaches on the features of `nano`: the numbers of its model card.

    python plugins/nano/measure.py [--weights FILE] [IMAGE_FOLDER ...]

scikit-learn's digits are always measured (8x8 grey, enlarged to 64x64 RGB); each IMAGE_FOLDER holds
`<class>/*`. Pictures go through the exported ONNX graph, so what is measured is what serves. A stratified
fifth is held out; a logistic regression learns on the standardised rest, its penalty chosen by
cross-validation inside the rest.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tlserve_nano import IMAGE, TAPS, WEIGHTS, NanoPlugin

from tlserve.plugin_api import ImageSpec

Floats = npt.NDArray[np.float32]
log = logging.getLogger("nano.measure")
BATCH = 64
PENALTIES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


def prepare(picture: Image.Image, image: ImageSpec) -> Floats:
    """Resize the short side, crop the middle, normalise: (3, height, width)."""
    rgb = picture.convert("RGB")
    scale = (image.resize_short_side or image.height) / min(rgb.size)
    rgb = rgb.resize((round(rgb.width * scale), round(rgb.height * scale)), Image.Resampling.BILINEAR)
    left, top = (rgb.width - image.width) // 2, (rgb.height - image.height) // 2
    pixels = np.asarray(rgb.crop((left, top, left + image.width, top + image.height)), dtype=np.float32)
    mean, std = np.array(image.mean, np.float32), np.array(image.std, np.float32)
    normalised: Floats = ((pixels - mean) / std).transpose(2, 0, 1)
    return normalised


def taps_of(session: onnxruntime.InferenceSession, inputs: Sequence[Floats]) -> dict[str, Floats]:
    """Each tap's activations of every input, (n, width), in the order of the inputs."""
    names = [tap.name for tap in TAPS]
    starts = range(0, len(inputs), BATCH)
    parts = [session.run(names, {"input": np.stack(inputs[i : i + BATCH])}) for i in starts]
    return {name: np.concatenate([part[k] for part in parts]) for k, name in enumerate(names)}


def held_out_accuracy(rows: Floats, labels: npt.NDArray[np.int64], seed: int) -> float:
    """The share of right answers on a stratified fifth that took no part in fitting."""
    x, x_held, y, y_held = train_test_split(rows, labels, test_size=0.2, stratify=labels, random_state=seed)
    head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    search = GridSearchCV(head, {"logisticregression__C": PENALTIES}, cv=3)
    return float(search.fit(x, y).score(x_held, y_held))


def digits() -> tuple[list[Image.Image], npt.NDArray[np.int64]]:
    """1,797 pictures of digits, 64x64."""
    grey, labels = load_digits(return_X_y=True)
    cells = np.round(grey.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    pictures = [Image.fromarray(cell.repeat(8, axis=0).repeat(8, axis=1)) for cell in cells]
    return pictures, labels.astype(np.int64)


def folder(root: Path) -> tuple[list[Path], npt.NDArray[np.int64]]:
    files = sorted(path for path in root.glob("*/*") if path.is_file())
    _, labels = np.unique([path.parent.name for path in files], return_inverse=True)
    return files, labels.astype(np.int64)


def report(name: str, taps: dict[str, Floats], labels: npt.NDArray[np.int64], seeds: Iterable[int]) -> None:
    """Log one line for the last tap and one for all taps together, over several held-out fifths."""
    for title, rows in {"features": taps["features"], "all taps": np.hstack(list(taps.values()))}.items():
        scores = 100 * np.array([held_out_accuracy(rows, labels, seed) for seed in seeds])
        each = ", ".join(f"{score:.1f}" for score in scores)
        log.info("%s (%d pictures), %s: mean %.1f %% (%s)", name, len(labels), title, scores.mean(), each)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a linear head on the features of nano.")
    parser.add_argument("folders", type=Path, nargs="*", metavar="IMAGE_FOLDER")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--seeds", type=int, default=3, help="how many different held-out fifths")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as scratch:
        graph = Path(scratch) / "nano.onnx"
        NanoPlugin(args.weights).load("").export(graph)
        session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    pictures, labels = digits()
    report("digits", taps_of(session, [prepare(p, IMAGE) for p in pictures]), labels, range(args.seeds))
    for root in args.folders:
        files, labels = folder(root)
        inputs = [prepare(Image.open(file), IMAGE) for file in files]
        report(root.name, taps_of(session, inputs), labels, range(args.seeds))


if __name__ == "__main__":
    main()
