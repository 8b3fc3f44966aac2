"""What the bundled backbone reaches with a linear head, beside its teacher and beside itself untrained.

    python -m tests.benchmarks nano

Pictures go through the decoder, build, session and softmax head that the daemon uses. Every set is cut into
five stratified fifths, each of which is held out once. Flowers and ants and bees have no part in the training
of nano; nor have scikit-learn's digits (8x8 grey cells, enlarged to 64x64).
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold
from tlserve_nano import NanoPlugin
from tlserve_nano.network import NanoNet
from tlserve_nano.storage import write_weights

from tlserve.core.head import apply
from tlserve.images import ImageDecoder
from tlserve.plugin_api import Backbone
from tlserve.plugin_host import PluginHost, make_build
from tlserve.runtime import BackboneSession, choose_device, usable_cores
from tlserve.training import train_softmax

SHARED = Path(__file__).resolve().parents[3] / "shared"
TEACHER = "backbones/mobilenet_v2_imagenet.onnx"
BARS = {"flowers": 0.83, "hymenoptera": 0.82, "digits": 0.98}
FASTER = 3.0
N_FOLDS = 5
BATCH = 32
Labelled = tuple[Sequence[bytes], npt.NDArray[np.str_]]
Floats = npt.NDArray[np.float32]


def run(shared: Path = SHARED) -> dict[str, str]:
    sets = {name: folder(shared / "datasets" / name) for name in ("flowers", "hymenoptera")}
    sets["digits"] = digits()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        sessions = {name: opened(backbone, place) for name, backbone in contenders(shared, place)}
        found = {}
        for what, (files, labels) in sets.items():
            for who, session in sessions.items():
                columns = session.spec.columns(("features",))
                scores = accuracies(rows(session, files)[:, columns], labels, ("features",))
                bar = f" (bar {BARS[what]:.0%})" if who == "nano" else ""
                each = ", ".join(f"{100 * score:.1f}" for score in scores)
                found[f"{what}, {len(labels)} images, {who}"] = f"{100 * np.mean(scores):.1f} % ({each}){bar}"
        return found | speeds(sessions["teacher"], sessions["nano"])


def contenders(shared: Path, scratch: Path) -> Iterator[tuple[str, Backbone]]:
    yield "teacher", PluginHost().load(f"onnx:{shared / TEACHER}")
    yield "nano", PluginHost().load("nano")
    torch.manual_seed(0)
    write_weights(NanoNet(), scratch / "untrained.safetensors")
    yield "nano untrained", NanoPlugin(scratch / "untrained.safetensors").load("")


def opened(backbone: Backbone, folder: Path) -> BackboneSession:
    """A session of its build, with as many threads as the machine has cores."""
    build = make_build(backbone, "benchmark", folder, choose_device("cpu"))
    return BackboneSession.open(build, choose_device("cpu"), threads=usable_cores())


def folder(root: Path) -> Labelled:
    files = sorted(root.glob("*/*.jpg"))
    return [file.read_bytes() for file in files], np.array([file.parent.name for file in files])


def digits() -> Labelled:
    """1,797 PNG files of 64x64 pixels."""
    grey, labels = load_digits(return_X_y=True)
    files = []
    for cell in np.round(grey.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8):
        file = io.BytesIO()
        Image.fromarray(cell.repeat(8, axis=0).repeat(8, axis=1)).save(file, "PNG")
        files.append(file.getvalue())
    return files, labels.astype(str)


def rows(session: BackboneSession, files: Sequence[bytes]) -> Floats:
    """The row of each file: (n, row_width)."""
    decode = ImageDecoder(session.spec.image).decode
    with ThreadPoolExecutor(usable_cores()) as pool:
        pixels = np.stack(list(pool.map(decode, files)))
    return np.concatenate([session.rows(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)])


def accuracies(of_files: Floats, labels: npt.NDArray[np.str_], taps: tuple[str, ...]) -> list[float]:
    """The share of right answers on each held-out fifth."""
    scores = []
    folds = StratifiedKFold(N_FOLDS, shuffle=True, random_state=0)
    for learnt, held in folds.split(of_files, labels):
        head = train_softmax(of_files[learnt], labels[learnt].tolist(), taps).head
        answers = np.array(head.labels)[apply(head, of_files[held]).argmax(axis=1)]
        scores.append(float((answers == labels[held]).mean()))
    return scores


def speeds(slow: BackboneSession, fast: BackboneSession, *, rounds: int = 15) -> dict[str, str]:
    """How many times as many images a second the second one does, by batch size; they take turns."""
    found = {}
    for size, repeats in ((1, 40), (BATCH, 2)):
        ratios = [_seconds(slow, size, repeats) / _seconds(fast, size, repeats) for _ in range(rounds)]
        what = "single images" if size == 1 else f"batches of {size}"
        found[f"{what}, nano over teacher"] = f"{np.median(ratios):.2f} (bar {FASTER:.0f})"
    return found


def _seconds(session: BackboneSession, size: int, repeats: int) -> float:
    image = session.spec.image
    pixels = np.random.default_rng(0).integers(0, 256, (size, image.height, image.width, 3), np.uint8)
    session.rows(pixels)
    began = time.perf_counter()
    for _ in range(repeats):
        session.rows(pixels)
    return time.perf_counter() - began


if __name__ == "__main__":
    for what, value in run().items():
        print(f"{what}: {value}")
