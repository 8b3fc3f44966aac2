"""The whole of a fine-tuning in one call: from a plugin's backbone and image files to a tuned backbone."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tlserve.core.errors import BackboneProblem, StoreUnavailable, TooFewClasses
from tlserve.core.tuning import TuneOptions
from tlserve.images import DEFAULT_MAX_PIXELS
from tlserve.plugin_api import BackboneError, TrainableBackbone, TrainableModule
from tlserve.tuning.backbone import TunedBackbone
from tlserve.tuning.course import OnProgress
from tlserve.tuning.lesson import Lesson, validation_slice
from tlserve.tuning.pictures import Ints, Pictures
from tlserve.tuning.train import Tuned, tune

EVEN = 3.0
HEAVIEST = 10.0
"""Classes are weighed as `training` weighs them: up to 3 times smaller than the largest they count as they
are, smaller ones up to tenfold."""
_MOST_DECODERS = 8


@dataclass(frozen=True, slots=True)
class TuningImage:
    """A training image; none that is held out may be among them."""

    digest: str
    """sha256 of its bytes."""
    path: Path
    label: str
    group: int
    """Near duplicates share a number."""


@dataclass(frozen=True, slots=True)
class TuneReport:
    """What a version's report says of its fine-tuning; ready for `dataclasses.asdict` and JSON."""

    reason: str
    """In a sentence."""
    epochs: tuple[dict[str, Any], ...]
    """epoch, loss, validation_loss, validation_accuracy, seconds; epoch 0 is the head alone."""
    best_epoch: int
    """0: nothing was better than the untouched backbone, whose weights these then are."""
    validation_accuracy_before: float
    validation_accuracy: float
    n_images: int
    """That it learnt from."""
    n_validation: int
    unfrozen_blocks: int
    blocks: int
    from_scratch: bool
    cache_bytes: int
    cached_share: float
    """Of all pictures and views, what found room in the activation cache."""
    options: dict[str, Any]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class FineTuned:
    backbone: TunedBackbone
    tuned: Tuned
    labels: tuple[str, ...]
    """Of the columns of `tuned.head`."""
    validation_digests: tuple[str, ...]
    """Images that no step saw. Only on rows of these are probabilities as uncertain as on new images."""
    report: TuneReport


def fine_tune(
    backbone: TrainableBackbone,
    images: Sequence[TuningImage],
    options: TuneOptions,
    folder: Path,
    *,
    device: str = "cpu",
    max_pixels: int = DEFAULT_MAX_PIXELS,
    on_progress: OnProgress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> FineTuned:
    """Fine-tune a copy of the backbone's network on these images.

    A tenth of them, near duplicates together, only validates. folder: for this fine-tuning alone: its
    caches and checkpoint; after a kill the same call goes on from there. It also receives the weights
    (weights.safetensors). The caller deletes it when the build is made. device: cpu, cuda or cuda:0.
    Raises TuningCancelled, StoreUnavailable, BackboneProblem, TooFewClasses, BadImage for a file that does
    not decode any more, ValueError for an augmentation that does not exist.
    """
    labels = tuple(sorted({image.label for image in images}))
    if len(labels) < 2:
        raise TooFewClasses(model=folder.name, found=len(labels))
    lesson = lesson_of(backbone, images, options, max_pixels=max_pixels)
    trainable = _module(backbone)
    tuned = tune(
        trainable,
        lesson,
        options,
        folder,
        device=torch.device(device),
        on_progress=on_progress,
        cancelled=cancelled,
    )
    made = TunedBackbone(backbone.info, tuned)
    made.save(folder)
    return FineTuned(
        backbone=made,
        tuned=tuned,
        labels=labels,
        validation_digests=tuple(images[place].digest for place in lesson.validation),
        report=_report(tuned, options, len(lesson.validation)),
    )


def lesson_of(
    backbone: TrainableBackbone, images: Sequence[TuningImage], options: TuneOptions, *, max_pixels: int
) -> Lesson:
    """Images as a lesson: classes in sorted order, a validation slice chosen by the seed."""
    labels = sorted({image.label for image in images})
    column = {label: place for place, label in enumerate(labels)}
    targets = np.array([column[image.label] for image in images], np.intp)
    groups = np.array([image.group for image in images], np.intp)

    def read(place: int) -> bytes:
        path = images[place].path
        try:
            return path.read_bytes()
        except OSError as exc:
            raise StoreUnavailable(f"cannot read the training image {path}: {exc}") from exc

    pictures = Pictures(
        backbone.info.image,
        tuple(image.digest for image in images),
        read,
        n_views=options.views,
        augment=options.augment,
        max_pixels=max_pixels,
        threads=min(_MOST_DECODERS, os.cpu_count() or 1),
    )
    validation = validation_slice(targets, groups, seed=options.seed)
    return Lesson(pictures, targets, validation, len(labels), _class_weights(targets))


def _class_weights(targets: Ints) -> npt.NDArray[np.float32]:
    counts = np.bincount(targets)
    weights = np.clip(counts.max() / np.maximum(counts, 1) / EVEN, 1, HEAVIEST)
    return np.asarray(weights, dtype=np.float32)


def _module(backbone: TrainableBackbone) -> TrainableModule:
    try:
        return backbone.torch_module()
    except BackboneError as exc:
        raise BackboneProblem(f"backbone {backbone.info.name!r} cannot be fine-tuned: {exc}") from exc
    except Exception as exc:  # a plugin's own code
        reason = (str(exc) or type(exc).__name__).splitlines()[0]
        raise BackboneProblem(f"backbone {backbone.info.name!r}: torch_module failed: {reason}") from exc


def _report(tuned: Tuned, options: TuneOptions, n_validation: int) -> TuneReport:
    before, after = tuned.history[0], tuned.history[tuned.best_epoch]
    return TuneReport(
        reason=_reason(tuned, n_validation),
        epochs=tuple(asdict(result) for result in tuned.history),
        best_epoch=tuned.best_epoch,
        validation_accuracy_before=before.validation_accuracy,
        validation_accuracy=after.validation_accuracy,
        n_images=tuned.n_images,
        n_validation=n_validation,
        unfrozen_blocks=tuned.n_unfrozen,
        blocks=tuned.n_blocks,
        from_scratch=tuned.from_scratch,
        cache_bytes=tuned.cache.n_cached * tuned.cache.slot_bytes,
        cached_share=tuned.cache.share,
        options=asdict(options),
        notes=tuned.notes,
    )


def _reason(tuned: Tuned, n_validation: int) -> str:
    if tuned.from_scratch:
        what = f"all {tuned.n_blocks} blocks were trained from random weights"
    elif tuned.n_unfrozen == tuned.n_blocks:
        what = f"all {tuned.n_blocks} blocks were fine-tuned"
    else:
        last = "last block" if tuned.n_unfrozen == 1 else f"last {tuned.n_unfrozen} blocks"
        what = f"the {last} of {tuned.n_blocks} learnt"
    before, after = tuned.history[0], tuned.history[tuned.best_epoch]
    if tuned.best_epoch == 0:
        alone = f"{before.validation_accuracy:.1%} of {n_validation} images that only validate"
        return f"{what}, but no epoch was better than the head alone ({alone})"
    return (
        f"{what} on {tuned.n_images} images: {before.validation_accuracy:.1%} became "
        f"{after.validation_accuracy:.1%} on {n_validation} images that only validate, best after epoch "
        f"{tuned.best_epoch} of {len(tuned.history) - 1}"
    )
