"""Train the weights of `nano` from labelled 64-pixel pictures and a teacher's features.

One command does all of it, from a fixed seed (with tlserve installed, or the checkout on PYTHONPATH); how
the shipped weights were made and what they reach stands in tlserve_nano/MODEL_CARD.md:

    python plugins/nano/train.py --pictures tiny_imagenet.tar --teacher mobilenet_v2.onnx \
        --cache CACHE_FOLDER --out plugins/nano/tlserve_nano/weights.safetensors

The archive holds `<class>/*.JPEG`; a JSON sidecar beside the teacher gives its image spec. Pictures are
decoded once, and the teacher looks at each of them once; both stay in the cache folder as arrays. Each
epoch leaves a checkpoint there, from which the same command goes on after an interruption. The network
learns two things at once from its pooled features: the class, and the teacher's features.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent))
from tlserve_nano import IMAGE
from tlserve_nano.network import FEATURE_WIDTH, NanoNet

log = logging.getLogger("nano.train")

PICTURE_SIDE = 64
TEACHER_BATCH = 32


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that shapes the result, apart from the data."""

    epochs: int
    seed: int
    batch: int = 128
    peak_rate: float = 0.2
    warmup_share: float = 0.15
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    teacher_weight: float = 10.0
    small_side: int = 48
    small_share: float = 0.55
    """This share of the epochs runs at `small_side` pixels: most is learnt at half the cost."""

    def side(self, epoch: int) -> int:
        return self.small_side if epoch < round(self.small_share * self.epochs) else PICTURE_SIDE

    def rate(self, progress: float) -> float:
        """The learning rate at `progress` in [0, 1]: a linear rise, then half a cosine down to zero."""
        if progress < self.warmup_share:
            return self.peak_rate * (0.05 + 0.95 * progress / self.warmup_share)
        rest = (progress - self.warmup_share) / (1 - self.warmup_share)
        return self.peak_rate * 0.5 * (1 + float(np.cos(np.pi * min(1.0, rest))))


@dataclass(frozen=True, slots=True)
class Pictures:
    """Decoded pictures with their classes and what the teacher says of them, row by row."""

    pixels: npt.NDArray[np.uint8]
    """(n, 64, 64, 3)"""
    labels: npt.NDArray[np.int64]
    teacher: npt.NDArray[np.float16]
    """(n, n_teacher_features), standardised"""

    @property
    def n_classes(self) -> int:
        return int(self.labels.max()) + 1


# Cached arrays


def _save_whole(path: Path, array: npt.NDArray[Any]) -> None:
    """Write under a temporary name first, so that a name that exists is a whole file."""
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        np.save(file, array)
    temporary.replace(path)


def decode_archive(archive: Path, cache: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The pictures as a memory-mapped (n, 64, 64, 3) array in the order of their names, and their classes."""
    pixels_path, labels_path = cache / "pixels.npy", cache / "labels.npy"
    if not labels_path.exists():
        log.info("decoding %s", archive.name)
        found: list[tuple[str, npt.NDArray[np.uint8]]] = []
        with tarfile.open(archive) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isfile() else None
                if file is not None:
                    picture = Image.open(io.BytesIO(file.read())).convert("RGB")
                    found.append((member.name, np.asarray(picture.resize((PICTURE_SIDE, PICTURE_SIDE)))))
        found.sort(key=lambda named: named[0])
        classes = [Path(name).parent.name for name, _ in found]
        _, labels = np.unique(classes, return_inverse=True)
        _save_whole(pixels_path, np.stack([picture for _, picture in found]))
        _save_whole(labels_path, labels.astype(np.int64))
    return np.load(pixels_path, mmap_mode="r"), np.load(labels_path)


def _teacher_input(pixels: npt.NDArray[np.uint8], image: dict[str, Any]) -> npt.NDArray[np.float32]:
    """Whole pictures, enlarged to the teacher's size, normalised: (n, 3, height, width)."""
    size = (int(image["width"]), int(image["height"]))
    enlarged = [np.asarray(Image.fromarray(p).resize(size, Image.Resampling.BILINEAR)) for p in pixels]
    mean, std = np.array(image["mean"], np.float32), np.array(image["std"], np.float32)
    normalised = (np.stack(enlarged) - mean) / std
    return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2), dtype=np.float32)


def teacher_features(
    teacher: Path, pixels: npt.NDArray[np.uint8], cache: Path, threads: int
) -> npt.NDArray[np.float16]:
    """The teacher's `features` of every picture, standardised and clipped at 5: (n, width) float16."""
    path = cache / "teacher.npy"
    if not path.exists():
        image = json.loads(teacher.with_suffix(".json").read_text())["image"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(teacher), options, providers=["CPUExecutionProvider"])
        rows = []
        for start in range(0, len(pixels), TEACHER_BATCH):
            batch = _teacher_input(pixels[start : start + TEACHER_BATCH], image)
            rows.append(session.run(["features"], {session.get_inputs()[0].name: batch})[0])
            if start % (TEACHER_BATCH * 100) == 0:
                log.info("teacher: %d of %d pictures", start, len(pixels))
        raw = np.concatenate(rows)
        standardised = (raw - raw.mean(axis=0)) / (raw.std(axis=0) + 1e-3)
        _save_whole(path, np.clip(standardised, -5, 5).astype(np.float16))
    cached: npt.NDArray[np.float16] = np.load(path)
    return cached


# Learning


class Student(nn.Module):
    """The network and the two heads that only training needs."""

    def __init__(self, n_classes: int, n_teacher: int) -> None:
        super().__init__()
        self.network = NanoNet()
        self.classes = nn.Linear(FEATURE_WIDTH, n_classes)
        self.teacher = nn.Linear(FEATURE_WIDTH, n_teacher)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.network(x)["features"]
        return self.classes(features), self.teacher(features)


def normalise(pixels: npt.NDArray[np.uint8]) -> Tensor:
    """(n, h, w, 3) uint8 to (n, 3, h, w) float32 as the image spec says."""
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    return (x - torch.tensor(IMAGE.mean).view(1, 3, 1, 1)) / torch.tensor(IMAGE.std).view(1, 3, 1, 1)


def augment(x: Tensor, side: int, random: torch.Generator) -> Tensor:
    """A random crop (60 to 100 % of each side), flip, contrast and brightness; a tenth turns grey."""
    n = len(x)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, generator=random) * (high - low) + low

    scale = uniform(0.6, 1.0)
    scale_x, scale_y = (scale * uniform(0.85, 1.15)).clamp(max=1), (scale * uniform(0.85, 1.15)).clamp(max=1)
    place = torch.zeros(n, 2, 3)
    place[:, 0, 0] = scale_x * (uniform(0, 1) < 0.5).float().mul(2).sub(1)
    place[:, 1, 1] = scale_y
    place[:, 0, 2] = (1 - scale_x) * uniform(-1, 1)
    place[:, 1, 2] = (1 - scale_y) * uniform(-1, 1)
    grid = functional.affine_grid(place, [n, 3, side, side], align_corners=False)
    x = functional.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    grey = (uniform(0, 1) < 0.1).view(n, 1, 1, 1)
    x = torch.where(grey, x.mean(dim=1, keepdim=True), x)
    return x * uniform(0.7, 1.3).view(n, 1, 1, 1) + uniform(-0.3, 0.3).view(n, 1, 1, 1)


def optimiser(student: Student, recipe: Recipe) -> torch.optim.SGD:
    """SGD with Nesterov momentum; norms and biases are not decayed."""
    decayed = [p for p in student.parameters() if p.ndim > 1]
    free = [p for p in student.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=recipe.peak_rate, momentum=0.9, nesterov=True)


def batches(rows: npt.NDArray[np.int64], size: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Whole batches of `rows` in a random order; rows are sorted inside a batch, which reads faster."""
    shuffled = np.random.default_rng(seed).permutation(rows)
    for start in range(0, len(shuffled) - size + 1, size):
        yield np.sort(shuffled[start : start + size])


def train_epoch(
    student: Student,
    sgd: torch.optim.SGD,
    data: Pictures,
    rows: npt.NDArray[np.int64],
    *,
    epoch: int,
    recipe: Recipe,
) -> tuple[float, float]:
    """One pass over `rows`. Returns the mean losses (class, teacher)."""
    student.train()
    epoch_seed = recipe.seed * 1000 + epoch
    random = torch.Generator().manual_seed(epoch_seed)
    n_batches = len(rows) // recipe.batch
    sums = np.zeros(2)
    for step, batch in enumerate(batches(rows, recipe.batch, epoch_seed)):
        for group in sgd.param_groups:
            group["lr"] = recipe.rate((epoch + step / n_batches) / recipe.epochs)
        x = augment(normalise(data.pixels[batch]), recipe.side(epoch), random)
        labels, wanted = torch.from_numpy(data.labels[batch]), torch.from_numpy(data.teacher[batch]).float()
        with torch.autocast("cpu", torch.bfloat16):
            logits, imitation = student(x.contiguous(memory_format=torch.channels_last))
        of_class = functional.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
        of_teacher = functional.mse_loss(imitation.float(), wanted)
        sgd.zero_grad()
        (of_class + recipe.teacher_weight * of_teacher).backward()  # type: ignore[no-untyped-call]
        sgd.step()
        sums += of_class.item(), of_teacher.item()
    return float(sums[0] / n_batches), float(sums[1] / n_batches)


@torch.inference_mode()
def check(student: Student, data: Pictures, rows: npt.NDArray[np.int64]) -> tuple[float, float]:
    """On pictures kept out of training: the share of right classes, and the teacher's loss."""
    student.eval()
    right, loss = 0, 0.0
    for batch in np.array_split(rows, max(1, len(rows) // 200)):
        logits, imitation = student(normalise(data.pixels[batch]))
        right += int((logits.argmax(1).numpy() == data.labels[batch]).sum())
        wanted = torch.from_numpy(data.teacher[batch]).float()
        loss += len(batch) * float(functional.mse_loss(imitation, wanted))
    return right / len(rows), loss / len(rows)


def write_weights(network: NanoNet, path: Path) -> None:
    """Store the network as float16, without the batch norms' step counters, which nothing reads."""
    kept = {n: t for n, t in network.state_dict().items() if not n.endswith("num_batches_tracked")}
    temporary = path.with_name(path.name + ".part")
    save_file({name: tensor.half().contiguous() for name, tensor in kept.items()}, temporary)
    temporary.replace(path)


def train(data: Pictures, recipe: Recipe, cache: Path, out: Path) -> None:
    """Run the epochs that the checkpoint lacks; the weights are written after each of them."""
    torch.manual_seed(recipe.seed)
    student = Student(data.n_classes, data.teacher.shape[1]).to(memory_format=torch.channels_last)
    sgd = optimiser(student, recipe)
    kept_out = np.arange(len(data.labels)) % 20 == 0
    learnt, held = np.flatnonzero(~kept_out), np.flatnonzero(kept_out)
    checkpoint, first = cache / "checkpoint.pt", 0
    if checkpoint.exists():
        stored = torch.load(checkpoint, weights_only=True)
        student.load_state_dict(stored["student"])
        sgd.load_state_dict(stored["sgd"])
        first = stored["epoch"] + 1
    for epoch in range(first, recipe.epochs):
        start = time.monotonic()
        of_class, of_teacher = train_epoch(student, sgd, data, learnt, epoch=epoch, recipe=recipe)
        right, held_teacher = check(student, data, held)
        log.info(
            "epoch %d of %d at %d px: class %.3f, teacher %.3f; held out: %.1f %%, teacher %.3f; %.0f s",
            *(epoch + 1, recipe.epochs, recipe.side(epoch), of_class, of_teacher),
            *(100 * right, held_teacher, time.monotonic() - start),
        )
        state = {"student": student.state_dict(), "sgd": sgd.state_dict(), "epoch": epoch}
        torch.save(state, checkpoint.with_suffix(".part"))
        checkpoint.with_suffix(".part").replace(checkpoint)
        write_weights(student.network, out)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the weights of the nano backbone.")
    parser.add_argument("--pictures", type=Path, required=True, help="tar of <class>/*.JPEG, 64x64")
    parser.add_argument("--teacher", type=Path, required=True, help="ONNX with `features`; .json beside it")
    parser.add_argument("--cache", type=Path, required=True, help="folder for arrays, checkpoint and log")
    parser.add_argument("--out", type=Path, required=True, help="the weights file to write")
    parser.add_argument("--epochs", type=int, default=28)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [logging.StreamHandler(), logging.FileHandler(args.cache / "train.log")]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", handlers=handlers)
    torch.set_num_threads(args.threads)
    pixels, labels = decode_archive(args.pictures, args.cache)
    teacher = teacher_features(args.teacher, pixels, args.cache, args.threads)
    recipe = Recipe(epochs=args.epochs, seed=args.seed)
    log.info("%d pictures; %s; torch %s", len(labels), recipe, torch.__version__)
    train(Pictures(pixels, labels, teacher), recipe, args.cache, args.out)


if __name__ == "__main__":
    main()
