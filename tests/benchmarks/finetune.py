"""What fine-tuning gains on flowers over a head alone, and what the activation cache saves.

    python -m tests.benchmarks finetune
    python -m tests.benchmarks.finetune --fifths 5 [--blocks K] [--epochs N] [--work FOLDER]

The MobileNetV2 weights of ../shared through the torchvision plugin. Each fifth of flowers is held out in
turn; nothing of it takes part in fine-tuning. "head": a softmax head on the rows of the untouched
backbone. "tuned": the backbone is fine-tuned on the other four fifths (a tenth of which validates), a build
is made of it, all rows are extracted anew and the same head is fitted on them. With --work what was begun
there is gone on with. Both builds run in ONNX Runtime, as they would serve.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from sklearn.model_selection import StratifiedKFold

from tests.benchmarks.nano import folder, opened, rows
from tlserve.core.augmentation import policy
from tlserve.core.head import apply
from tlserve.core.tuning import TuneOptions, blocks_for
from tlserve.plugin_api import Backbone, TrainableBackbone
from tlserve.plugin_host import PluginHost
from tlserve.training import train_softmax
from tlserve.tuning import TuningImage, fine_tune
from tlserve.tuning.cut import cut
from tlserve.tuning.pictures import normalised

SHARED = Path(__file__).resolve().parents[3] / "shared"
WEIGHTS = "backbones/mobilenet_v2_imagenet.torchvision.safetensors"
SIDECAR = {
    "image": {"resize_short_side": 256, "mean": [127.5] * 3, "std": [127.5] * 3},
    "licence": "Apache-2.0",
    "weights_origin": "MobileNetV2 on ImageNet-1k, from ../shared",
}
BAR_POINTS = 1.5
TAP = ("features",)
N_TIMED = 384
"""Images in the epochs that are timed."""
Floats = npt.NDArray[np.float32]
Images = Sequence[TuningImage]


def run(shared: Path = SHARED) -> dict[str, str]:
    """One fifth, with the usual options."""
    with tempfile.TemporaryDirectory() as work:
        return measured(shared, Path(work), n_fifths=1, options=TuneOptions())


def measured(shared: Path, work: Path, *, n_fifths: int, options: TuneOptions) -> dict[str, str]:
    files, labels = folder(shared / "datasets" / "flowers")
    paths = sorted((shared / "datasets" / "flowers").glob("*/*.jpg"))
    backbone = mobilenet(shared, work)
    heads, tuned = [], []
    images = [
        TuningImage(hashlib.sha256(file).hexdigest(), path, str(label), number)
        for number, (file, path, label) in enumerate(zip(files, paths, labels, strict=True))
    ]
    found = costs(backbone, options, images, work)
    plain = cached_rows(work / "plain", backbone, files) if n_fifths else np.empty(0, np.float32)
    folds = list(StratifiedKFold(5, shuffle=True, random_state=0).split(labels, labels))[:n_fifths]
    for fifth, (learnt, held) in enumerate(folds):
        place = work / f"fifth{fifth}"
        began = time.perf_counter()
        images = [
            TuningImage(hashlib.sha256(files[i]).hexdigest(), paths[i], str(labels[i]), int(i))
            for i in learnt
        ]
        done = fine_tune(backbone, images, options, place)
        seconds = time.perf_counter() - began
        anew = cached_rows(place, done.backbone, files)
        heads.append(accuracy(plain, labels, learnt, held))
        tuned.append(accuracy(anew, labels, learnt, held))
        print(f"  fifth {fifth}: head {heads[-1]:.2%}, tuned {tuned[-1]:.2%}, {seconds:.0f} s", flush=True)
        print(f"    {done.report.reason}", flush=True)
        for epoch in done.report.epochs:
            print(f"    {json.dumps(epoch)}", flush=True)
    if not heads:
        return found
    gains = 100 * (np.array(tuned) - np.array(heads))
    each = ", ".join(f"{gain:+.1f}" for gain in gains)
    found["head alone"] = f"{100 * np.mean(heads):.1f} %"
    found["fine-tuned"] = f"{100 * np.mean(tuned):.1f} %"
    found["gain"] = f"{gains.mean():+.2f} points ({each}) (bar {BAR_POINTS:+.1f})"
    return found


def mobilenet(shared: Path, work: Path) -> TrainableBackbone:
    """The shared weights with a sidecar that says which input they expect, in the folder `work`."""
    work.mkdir(parents=True, exist_ok=True)
    weights = work / "mobilenet_v2.safetensors"
    if not weights.exists():
        shutil.copyfile(shared / WEIGHTS, weights)
    weights.with_suffix(".json").write_text(json.dumps(SIDECAR))
    backbone = PluginHost().load(f"torchvision/mobilenet_v2@{weights}")
    assert isinstance(backbone, TrainableBackbone)
    return backbone


def costs(backbone: TrainableBackbone, options: TuneOptions, images: Images, work: Path) -> dict[str, str]:
    """What an epoch takes with and without the cache: real epochs over some of the images, in one run."""
    some = [images[i] for i in np.random.default_rng(0).permutation(len(images))[:N_TIMED]]
    n_learn = blocks_for(options.unfreeze, len(images), len(backbone.torch_module().blocks))
    seconds, reports = [], []
    for gigabytes in (options.activation_cache_gb, 0.0):
        asked = dataclasses.replace(
            options, unfreeze=n_learn, epochs=2, patience=2, activation_cache_gb=gigabytes
        )
        place = work / f"timed{gigabytes:g}"
        shutil.rmtree(place, ignore_errors=True)
        report = fine_tune(backbone, some, asked, place).report
        seconds.append(min(float(epoch["seconds"]) for epoch in report.epochs[1:]))
        reports.append(report)
    scale = len(images) / len(some)
    in_torch = reports[0].n_images * frozen_seconds(backbone, n_learn)
    n_slots = len(some) * (1 + len(policy(options.augment).indices(options.views)))
    return {
        "blocks that learn": f"{reports[0].unfrozen_blocks} of {reports[0].blocks}",
        "an epoch, activations cached": f"{scale * seconds[0]:.1f} s",
        "an epoch, activations worked out each time": f"{scale * seconds[1]:.1f} s",
        "the same, the frozen part in torch": f"{scale * (seconds[0] + in_torch):.1f} s",
        "speed-up of the cache": f"{seconds[1] / seconds[0]:.1f}x; where torch runs the frozen part, "
        f"{1 + in_torch / seconds[0]:.1f}x",
        "cache": f"{scale * reports[0].cache_bytes / 1e6:.0f} MB, "
        f"{reports[0].cache_bytes / n_slots / 1e3:.0f} KB for each picture or view",
    }


def frozen_seconds(backbone: TrainableBackbone, n_blocks: int) -> float:
    """What one picture takes below the cut in torch, without gradients: the best of three batches."""
    image = backbone.info.image
    part = cut(backbone.torch_module(), image, n_blocks).frozen
    assert part is not None
    pixels = np.random.default_rng(0).integers(0, 256, (64, image.height, image.width, 3), np.uint8)
    pictures, found = normalised(pixels, image, torch.device("cpu")), []
    with torch.inference_mode():
        for _ in range(4):
            began = time.perf_counter()
            part(pictures)
            found.append((time.perf_counter() - began) / len(pixels))
    return min(found[1:])


def cached_rows(place: Path, backbone: Backbone, files: Sequence[bytes]) -> Floats:
    """The `features` of each file through the backbone's build."""
    kept = place / "rows.npz"
    if kept.exists():
        with np.load(kept) as stored:
            if str(stored["weights"]) == backbone.info.weights_sha256:
                return np.asarray(stored["rows"])
    place.mkdir(parents=True, exist_ok=True)
    session = opened(backbone, place / "builds")
    found = rows(session, files)[:, session.spec.columns(TAP)]
    session.close()
    np.savez(kept, rows=found, weights=backbone.info.weights_sha256)
    return np.asarray(found)


def accuracy(
    of_files: Floats, labels: npt.NDArray[np.str_], learnt: npt.NDArray[np.intp], held: npt.NDArray[np.intp]
) -> float:
    """Of a head fitted on the learnt rows, on the held-out ones."""
    head = train_softmax(of_files[learnt], labels[learnt].tolist(), TAP).head
    answers = np.array(head.labels)[apply(head, of_files[held]).argmax(axis=1)]
    return float((answers == labels[held]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fifths", type=int, default=1)
    parser.add_argument("--blocks", type=int)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--views", type=int)
    parser.add_argument("--augment", action="append")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--work", type=Path)
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    given = {
        "unfreeze": asked.blocks,
        "epochs": asked.epochs,
        "views": asked.views,
        "augment": asked.augment and tuple(asked.augment),
    }
    options = dataclasses.replace(TuneOptions(), **{k: v for k, v in given.items() if v is not None})
    with tempfile.TemporaryDirectory() as scratch:
        work = asked.work or Path(scratch)
        for what, value in measured(SHARED, work, n_fifths=asked.fifths, options=options).items():
            print(f"{what}: {value}", flush=True)


if __name__ == "__main__":
    main()
