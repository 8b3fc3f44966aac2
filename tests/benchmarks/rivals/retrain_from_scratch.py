"""The script that people write, and run again after every change: all images through the backbone, fit, save.

    python retrain_from_scratch.py FOLDER BACKBONE.onnx MODEL.pickle PROBE.jpg

`drop_to_live` runs it beside tlserve. It knows nothing of tlserve and keeps nothing between two runs:
Pillow, onnxruntime in batches with its default threads, scikit-learn's LogisticRegression, pickle. What it
answers for the probe goes to stdout with the seconds that each part took, as one line of JSON.
"""

from __future__ import annotations

import json
import pickle
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
from PIL import Image
from sklearn.linear_model import LogisticRegression

BATCH = 32
SHORT_SIDE, SIDE = 256, 224


def pixels(path: Path) -> np.ndarray:
    """(3, 224, 224) float32 in [-1, 1]."""
    image = Image.open(path).convert("RGB")
    scale = SHORT_SIDE / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = (image.width - SIDE) // 2, (image.height - SIDE) // 2
    image = image.crop((left, top, left + SIDE, top + SIDE))
    return (np.asarray(image, np.float32).transpose(2, 0, 1) - 127.5) / 127.5


def features(session: ort.InferenceSession, paths: list[Path]) -> np.ndarray:
    """(n_images, 1280) float32."""
    name = session.get_inputs()[0].name
    parts = []
    for start in range(0, len(paths), BATCH):
        batch = np.stack([pixels(path) for path in paths[start : start + BATCH]])
        parts.append(session.run(["features"], {name: batch})[0])
    return np.concatenate(parts)


def main() -> None:
    folder, backbone, saved, probe = map(Path, sys.argv[1:])
    seconds, last = {}, time.perf_counter()

    def lap(name: str) -> None:
        nonlocal last
        seconds[name], last = time.perf_counter() - last, time.perf_counter()

    paths = sorted(folder.glob("*/*.jpg"))
    labels = [path.parent.name for path in paths]
    session = ort.InferenceSession(backbone, providers=["CPUExecutionProvider"])
    lap("scan, open")
    rows = features(session, paths)
    lap("backbone")
    fitted = LogisticRegression(max_iter=1000).fit(rows, labels)
    lap("fit")
    saved.write_bytes(pickle.dumps(fitted))
    (answer,) = pickle.loads(saved.read_bytes()).predict(features(session, [probe]))
    lap("save, load, answer")
    print(json.dumps({"images": len(paths), "label": answer, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
