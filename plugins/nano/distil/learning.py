"""The epochs of the student, each of which ends in a checkpoint to go on from.

Under torchrun each batch is shared out among the processes; one thread each is faster than one process of
many threads on a machine that has other work.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tlserve_nano import IMAGE
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from .augment import shifted, spoil
from .pictures import NO_CLASS, Pictures
from .recipe import Recipe
from .student import Opinion, Student, losses
from .teacher import MIRRORED, Targets
from .views import look

log = logging.getLogger("nano.learning")

HELD_OUT_EVERY = 40


@dataclass(frozen=True)
class Lesson:
    """All that is learnt from."""

    pictures: Pictures
    places: npt.NDArray[np.float32]
    """(n_views, n, 4)"""
    targets: Targets
    opinion: Opinion


def learn(lesson: Lesson, recipe: Recipe, cache: Path, *, last_epoch: int | None = None) -> Student:
    """Run the epochs that the checkpoint in `cache` lacks; gives the student in inference mode.

    last_epoch: stop after so many, as an interruption would. The first of several processes keeps the
    checkpoint and the log.
    """
    torch.manual_seed(recipe.seed)
    student = Student(lesson.pictures.n_classes, lesson.targets.width).to(memory_format=torch.channels_last)
    sgd = _optimiser(student, recipe)
    held = np.arange(len(lesson.pictures.labels)) % HELD_OUT_EVERY == 0
    learnt_rows, held_rows = np.flatnonzero(~held), np.flatnonzero(held)
    first = _restore(cache / "checkpoint.pt", student, sgd)
    shared = DistributedDataParallel(student) if distributed.is_initialized() else student
    for epoch in range(first, last_epoch or recipe.epochs):
        start = time.monotonic()
        parts = _epoch(shared, sgd, lesson, learnt_rows, epoch=epoch, recipe=recipe)
        if process()[0] != 0:
            continue
        right, divergence = _check(student, lesson, held_rows, recipe.side(epoch))
        log.info(
            "epoch %d of %d at %d px: %s; held out: %.1f %% right, opinion %.3f; %.0f s",
            *(epoch + 1, recipe.epochs, recipe.side(epoch)),
            ", ".join(f"{name} {value:.3f}" for name, value in parts.items()),
            *(100 * right, divergence, time.monotonic() - start),
        )
        _store(cache / "checkpoint.pt", student, sgd, epoch)
    return student.eval()


def _optimiser(student: Student, recipe: Recipe) -> torch.optim.SGD:
    """SGD with Nesterov momentum; norms and biases are not decayed."""
    decayed = [p for p in student.parameters() if p.ndim > 1]
    free = [p for p in student.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=recipe.peak_rate, momentum=recipe.momentum, nesterov=True)


def process() -> tuple[int, int]:
    """This process's number, and how many share the work."""
    if not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def _epoch(
    student: nn.Module,
    sgd: torch.optim.SGD,
    lesson: Lesson,
    rows: npt.NDArray[np.int64],
    *,
    epoch: int,
    recipe: Recipe,
) -> dict[str, float]:
    """One view of each of `rows`. Returns the mean of each loss on this process's share."""
    student.train()
    epoch_seed, (number, n_processes) = recipe.seed * 1000 + epoch, process()
    draw = np.random.default_rng(epoch_seed)
    random = torch.Generator().manual_seed(epoch_seed * 100 + number)
    n_batches = len(rows) // recipe.batch
    sums: dict[str, float] = {}
    for step, whole_batch in enumerate(_batches(rows, recipe.batch, draw)):
        for group in sgd.param_groups:
            group["lr"] = recipe.rate(epoch + step / n_batches)
        views = draw.integers(0, recipe.n_views, recipe.batch)[number::n_processes]
        batch = whole_batch[number::n_processes]
        x, wanted = _views(lesson, batch, views, recipe.side(epoch), random)
        with torch.autocast("cpu", torch.bfloat16):
            answers = student(x)
        labels = torch.from_numpy(lesson.pictures.labels[batch])
        total, parts = losses(answers, wanted, labels, opinion=lesson.opinion, weights=recipe.weights)
        sgd.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        sgd.step()
        for name, part in parts.items():
            sums[name] = sums.get(name, 0.0) + part / n_batches
    return sums


def _batches(
    rows: npt.NDArray[np.int64], size: int, draw: np.random.Generator
) -> Iterator[npt.NDArray[np.int64]]:
    """Whole batches of `rows` in a random order; rows are sorted inside a batch, which reads faster."""
    shuffled = draw.permutation(rows)
    for start in range(0, len(shuffled) - size + 1, size):
        yield np.sort(shuffled[start : start + size])


def _views(
    lesson: Lesson,
    batch: npt.NDArray[np.int64],
    views: npt.NDArray[np.int64],
    side: int,
    random: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """The spoilt views (n, 3, side, side), half of them mirrored, and what the teacher says of them."""
    places = shifted(torch.from_numpy(lesson.places[views, batch]), random)
    mirrored = torch.rand(len(batch), generator=random) < 0.5
    places[:, 0] = torch.where(mirrored, -places[:, 0], places[:, 0])
    x = spoil(look(normalise(lesson.pictures.pixels[batch]), places, side), random)
    wanted = lesson.targets.of(views, batch)
    wanted = torch.where(mirrored.view(-1, 1, 1), wanted[:, list(MIRRORED)], wanted)
    return x.contiguous(memory_format=torch.channels_last), wanted


def normalise(pixels: npt.NDArray[np.uint8]) -> Tensor:
    """(n, h, w, 3) uint8 to (n, 3, h, w) float32 as the image spec says."""
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    return (x - torch.tensor(IMAGE.mean).view(1, 3, 1, 1)) / torch.tensor(IMAGE.std).view(1, 3, 1, 1)


@torch.inference_mode()
def _check(student: Student, lesson: Lesson, rows: npt.NDArray[np.int64], side: int) -> tuple[float, float]:
    """On whole pictures kept out of learning: the share of right classes, and the opinions' divergence."""
    student.eval()
    right, divergence = 0, 0.0
    for batch in np.array_split(rows, max(1, len(rows) // 100)):
        whole = torch.tensor([[1.0, 1.0, 0.0, 0.0]]).repeat(len(batch), 1)
        described, logits = student(look(normalise(lesson.pictures.pixels[batch]), whole, side))
        right += int((logits.argmax(1).numpy() == lesson.pictures.labels[batch]).sum())
        wanted = lesson.targets.of(np.zeros_like(batch), batch)[:, 0]
        theirs, ours = (lesson.opinion(d).log_softmax(1) for d in (wanted, described[:, 0]))
        divergence += float((theirs.exp() * (theirs - ours)).sum())
    n_photos = int((lesson.pictures.labels[rows] != NO_CLASS).sum())
    return right / n_photos, divergence / len(rows)


def _store(path: Path, student: Student, sgd: torch.optim.SGD, epoch: int) -> None:
    """Whole or not at all."""
    temporary = path.with_suffix(".part")
    torch.save({"student": student.state_dict(), "sgd": sgd.state_dict(), "epoch": epoch}, temporary)
    temporary.replace(path)


def _restore(path: Path, student: Student, sgd: torch.optim.SGD) -> int:
    """Number of epochs that are done."""
    if not path.exists():
        return 0
    stored = torch.load(path, weights_only=True)
    student.load_state_dict(stored["student"])
    sgd.load_state_dict(stored["sgd"])
    return int(stored["epoch"]) + 1
