"""Where a fine-tuning stands after an epoch, on disk, so that a killed one goes on from there."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tlserve.core.errors import StoreUnavailable

FILE = "checkpoint.pt"
State = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class EpochResult:
    """What one epoch came to."""

    epoch: int
    """From 1; 0 is the head on the untouched backbone."""
    loss: float | None
    """Mean training loss over the epoch."""
    validation_loss: float
    validation_accuracy: float
    seconds: float


@dataclass(frozen=True)
class Checkpoint:
    """Everything that the next epoch depends on. Random draws depend on seed and epoch alone."""

    key: str
    """Digest of what is trained on what; another one is another fine-tuning."""
    history: tuple[EpochResult, ...]
    learnt: State
    best: State
    best_epoch: int
    optimiser: dict[str, Any]
    scaler: dict[str, Any]


def save(checkpoint: Checkpoint, folder: Path) -> None:
    """Replace the checkpoint of `folder` in one step. Raises StoreUnavailable."""
    told = {**vars(checkpoint), "history": [asdict(result) for result in checkpoint.history]}
    making = folder / f"{FILE}.part"
    try:
        with making.open("wb") as file:
            torch.save(told, file)
            file.flush()
            os.fsync(file.fileno())
        making.replace(folder / FILE)
    except (OSError, RuntimeError) as exc:  # torch turns a full disk into a RuntimeError
        raise StoreUnavailable(f"cannot write the checkpoint {folder / FILE}: {exc}") from exc


def load(folder: Path, key: str) -> tuple[Checkpoint | None, str]:
    """The checkpoint of `folder` under this key, on the CPU, else None; and, where one is of no use, why."""
    path = folder / FILE
    if not path.exists():
        return None, ""
    try:
        told = torch.load(path, map_location="cpu", weights_only=True)
        history = tuple(EpochResult(**result) for result in told.pop("history"))
        found = Checkpoint(**told, history=history)
    except Exception as exc:  # on damaged bytes, torch's reader raises whatever it trips over
        reason = (str(exc) or type(exc).__name__).splitlines()[0][:200]
        return None, f"the checkpoint is damaged ({reason}); fine-tuning starts anew"
    if found.key != key:
        return None, "the checkpoint is of other images, weights or options; fine-tuning starts anew"
    return found, ""
