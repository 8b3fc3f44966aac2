"""From a network and pictures to a network that knows these pictures, and a head on it.

Below the cut everything runs once (`activations`); a head is fitted on what the rest makes of it; then,
epoch after epoch, both learn together (`course`). A run that was killed goes on from its last epoch and
ends with the same weights.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from tlserve.core.errors import StoreUnavailable
from tlserve.core.head import Dense
from tlserve.core.tuning import TuneOptions, TuneProgress, TuneStage, blocks_for
from tlserve.plugin_api import ImageSpec, TrainableModule
from tlserve.tuning.activations import Activations, Budget
from tlserve.tuning.checkpoint import EpochResult
from tlserve.tuning.course import Course, OnProgress
from tlserve.tuning.cut import Cut, cut, whole_in_training
from tlserve.tuning.layer import HeadLayer
from tlserve.tuning.learner import Learner
from tlserve.tuning.lesson import Batches, Lesson
from tlserve.tuning.scratch import reinitialise
from tlserve.tuning.state import state_digest


@dataclass(frozen=True)
class Tuned:
    """A backbone after fine-tuning: with its best epoch's weights, on the CPU, in inference mode."""

    trainable: TrainableModule
    head: Dense
    """On raw `features`; learnt with the backbone, on the pictures that do not validate."""
    history: tuple[EpochResult, ...]
    """From epoch 0 on, which is the head on the untouched backbone."""
    best_epoch: int
    """0 where no epoch was better than the untouched backbone."""
    n_images: int
    """Pictures that it learnt from, those that validate not among them."""
    n_unfrozen: int
    """Blocks that learnt, of `n_blocks`."""
    n_blocks: int
    cache: Budget
    from_scratch: bool = False
    notes: tuple[str, ...] = ()
    """For the report, in words: what was done in another way than usual."""

    @property
    def gain(self) -> float:
        """Of accuracy on the validating pictures, over the untouched backbone."""
        return self.history[self.best_epoch].validation_accuracy - self.history[0].validation_accuracy


def tune(
    trainable: TrainableModule,
    lesson: Lesson,
    options: TuneOptions,
    folder: Path,
    *,
    device: torch.device,
    on_progress: OnProgress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Tuned:
    """Tune `trainable`, whose module is changed in place, and a head with it.

    folder: for the cache and the checkpoint, for this fine-tuning alone. What lies there of the same one
    is gone on from; the caller deletes the folder when all is done. The same arguments on the same machine
    give the same weights.
    Raises TuningCancelled, StoreUnavailable, BadImage, and OSError from reading pictures.
    """
    tell, stop = on_progress or (lambda _: None), cancelled or (lambda: False)
    _make(folder)
    module = trainable.module.to(device)
    if options.scratch:
        reinitialise(module, options.seed)
    weights = state_digest(module)
    found = cut_for(trainable, lesson.pictures.spec, options, len(lesson.training))
    gigabytes = options.activation_cache_gb
    activations = Activations(
        found, lesson.pictures, folder, weights=weights, budget_gb=gigabytes, device=device
    )
    with closing(activations), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        activations.fill(_caching(tell), stop)
        batches = Batches(lesson, activations, options, device)
        learner = _learner(found, trainable, batches, lesson, options=options, device=device)
        key = _key(weights, lesson, options, device)
        course = Course(learner, batches, lesson, options, folder, key=key)
        notes = [
            course.run(tell, stop),
            _why_whole(found, options),
            _why_uncached(activations.budget, options),
        ]
    module.to("cpu").eval()
    return Tuned(
        trainable=trainable,
        head=learner.head.cpu().dense(),
        history=tuple(course.history),
        best_epoch=course.best_epoch,
        n_images=len(lesson.training),
        n_unfrozen=_n_unfrozen(trainable, options, len(lesson.training)),
        n_blocks=len(trainable.blocks),
        cache=activations.budget,
        from_scratch=options.scratch,
        notes=tuple(filter(None, notes)),
    )


def cut_for(trainable: TrainableModule, image: ImageSpec, options: TuneOptions, n_images: int) -> Cut:
    """The network cut as these options ask for with so many training pictures."""
    if options.scratch:
        return whole_in_training(trainable, image)
    return cut(trainable, image, _n_unfrozen(trainable, options, n_images))


def _n_unfrozen(trainable: TrainableModule, options: TuneOptions, n_images: int) -> int:
    return blocks_for("all" if options.scratch else options.unfreeze, n_images, len(trainable.blocks))


def _learner(
    found: Cut,
    trainable: TrainableModule,
    batches: Batches,
    lesson: Lesson,
    *,
    options: TuneOptions,
    device: torch.device,
) -> Learner:
    """With a head that gives zero to everything."""
    activations, _ = next(batches.plain(lesson.training[:1]))
    trainable.module.eval()
    with torch.no_grad():
        n_features = found.tuned(*activations).shape[1]
    weights = lesson.class_weights
    return Learner(
        found,
        trainable.module,
        HeadLayer(n_features, lesson.n_classes),
        options,
        class_weights=torch.ones(lesson.n_classes) if weights is None else torch.from_numpy(weights),
        device=device,
        n_steps=batches.n_steps * options.epochs,
    )


def _caching(tell: OnProgress) -> Callable[[int, int], None]:
    began: list[tuple[float, int]] = []

    def say(done: int, total: int) -> None:
        now = time.perf_counter()
        began.append((now, done))
        first, done_then = began[0]
        speed = (done - done_then) / (now - first) if done > done_then else None
        left = (total - done) / speed if speed else None
        tell(TuneProgress(TuneStage.CACHING, done=done, total=total, seconds_left=left))

    return say


def _why_whole(found: Cut, options: TuneOptions) -> str:
    if found.frozen is not None or options.scratch or not found.why_whole:
        return ""
    return f"each epoch ran the whole network: {found.why_whole}"


def _why_uncached(budget: Budget, options: TuneOptions) -> str:
    if budget.n_cached == budget.n_slots:
        return ""
    wanted = budget.slot_bytes * budget.n_slots / 1e9
    return (
        f"the activation cache held {budget.share:.0%} of the pictures and views; all take {wanted:.1f} GB, "
        f"activation_cache_gb is {options.activation_cache_gb:g}"
    )


def _key(weights: str, lesson: Lesson, options: TuneOptions, device: torch.device) -> str:
    """Digest of everything that the weights of an epoch depend on."""
    told = asdict(options)
    del told["activation_cache_gb"]
    return hashlib.sha256(json.dumps([weights, lesson.digest, told, device.type]).encode()).hexdigest()


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise StoreUnavailable(f"cannot make the folder {folder} for fine-tuning: {exc}") from exc
