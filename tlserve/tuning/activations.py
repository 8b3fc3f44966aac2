"""What the frozen part gives, kept on disk: an epoch then runs the tuned part alone.

A slot is one view of one picture. Slots are filled in one order, in blocks of one size, so that the same
work gives the same numbers whether or not it was interrupted. Activations are kept as float16, those that
found no room are rounded alike.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from tlserve.core.types import Pixels
from tlserve.tuning.cut import Cut
from tlserve.tuning.frozen import FrozenPart
from tlserve.tuning.pictures import Ints, Pictures, normalised
from tlserve.tuning.slots import Records, SlotFile

BLOCK = 64
"""Slots that go through the frozen part, and to disk, at a time."""
FREE_SHARE = 0.5
"""Of the disk's free space, what the cache takes at most."""
_GB = 10**9
SlotsDone = Callable[[int, int], None]


class TuningCancelled(Exception):
    """The caller's `cancelled` said so; the checkpoint and the cache stay, for the next time."""


@dataclass(frozen=True)
class Budget:
    """How much of what a fine-tuning reads is kept on disk."""

    slot_bytes: int
    n_slots: int
    """Pictures times views."""
    n_cached: int
    """Of these, the first so many."""

    @property
    def share(self) -> float:
        return self.n_cached / self.n_slots if self.n_slots else 0.0


def plan_cache(cut: Cut, n_slots: int, budget_gb: float, folder: Path | None = None) -> Budget:
    """What fits into `budget_gb`, and into half of what is free where `folder` lies.

    Where nothing is frozen, the pictures themselves are kept, decoded.
    """
    slot_bytes = cut.n_numbers * (1 if cut.frozen is None else 2)
    room = budget_gb * _GB
    if folder is not None:
        kept = sum(file.stat().st_size for file in folder.glob("*.slots"))
        room = min(room, kept + FREE_SHARE * shutil.disk_usage(_existing(folder)).free)
    return Budget(slot_bytes, n_slots, min(n_slots, int(room // slot_bytes)))


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())


class Activations:
    """What the tuned part reads of any picture and view, from disk where it lies there.

    weights: a digest of the weights of the frozen part.
    """

    def __init__(
        self,
        cut: Cut,
        pictures: Pictures,
        folder: Path,
        *,
        weights: str,
        budget_gb: float,
        device: torch.device,
    ) -> None:
        self._cut, self._pictures, self._device = cut, pictures, device
        self._frozen = None if cut.frozen is None else FrozenPart(cut)
        self.budget = plan_cache(cut, len(pictures) * len(pictures.views), budget_gb, folder)
        self._slots = SlotFile(
            folder / "activations.slots",
            key=_key(cut, pictures, weights),
            n_slots=self.budget.n_cached,
            width=cut.n_numbers,
            dtype=np.uint8 if cut.frozen is None else np.float16,
        )

    @property
    def n_finished(self) -> int:
        """Slots on disk."""
        return self._slots.finished

    def fill(self, on_progress: SlotsDone | None = None, cancelled: Callable[[], bool] | None = None) -> None:
        """Put on disk what fits and is not there yet. Raises TuningCancelled, StoreUnavailable, BadImage."""
        total = self.budget.n_cached
        while self._slots.finished < total:
            if cancelled is not None and cancelled():
                raise TuningCancelled
            begin = self._slots.finished
            self._slots.append(self._worked_out(np.arange(begin, min(begin + BLOCK, total))))
            if on_progress is not None:
                on_progress(self._slots.finished, total)

    def batch(self, images: Ints, views: Ints) -> tuple[Tensor, ...]:
        """The tuned part's inputs for a view of each image, float32, on the device."""
        slots = views * len(self._pictures) + images
        on_disk = slots < self._slots.finished
        records = np.empty((len(slots), self._slots.width), self._slots.dtype)
        if on_disk.any():
            records[on_disk] = self._slots.read(slots[on_disk])
        if not on_disk.all():
            records[~on_disk] = self._worked_out(slots[~on_disk])
        return self._tensors(records)

    def close(self) -> None:
        self._slots.close()

    def _worked_out(self, slots: Ints) -> Records:
        """The records of these slots, from the image files."""
        views, images = np.divmod(slots, len(self._pictures))
        pixels = self._pictures.pixels(images, views)
        if self._frozen is None:
            return pixels.reshape(len(pixels), -1)
        return self._frozen.records(self._normalised(pixels))

    def _normalised(self, pixels: Pixels) -> Tensor:
        return normalised(pixels, self._pictures.spec, self._device)

    def _tensors(self, records: Records) -> tuple[Tensor, ...]:
        if self._cut.frozen is None:
            spec = self._pictures.spec
            return (self._normalised(records.reshape(-1, spec.height, spec.width, 3)),)
        return as_tensors(records, self._cut.shapes, self._device)


def as_tensors(
    records: Records, shapes: tuple[tuple[int, ...], ...], device: torch.device
) -> tuple[Tensor, ...]:
    """The inverse of `FrozenPart.records`, float32; maps with the channels side by side in memory."""
    together = torch.from_numpy(records).to(device)
    parts = torch.split(together, [torch.Size(shape).numel() for shape in shapes], dim=1)
    tensors = []
    for part, shape in zip(parts, shapes, strict=True):
        tensor = part.reshape(-1, *shape).float()
        is_map = tensor.ndim == 4
        tensors.append(tensor.contiguous(memory_format=torch.channels_last) if is_map else tensor)
    return tuple(tensors)


def _key(cut: Cut, pictures: Pictures, weights: str) -> str:
    """Digest of everything that a slot depends on."""
    told = {
        "weights": weights,
        "shapes": cut.shapes,
        "frozen": None if cut.frozen is None else len(list(cut.frozen.modules())),
        "learning": [len(block) for block in cut.learning],
        "images": pictures.digests,
        "augmentation": pictures.augmentation.digest,
        "block": BLOCK,
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()
