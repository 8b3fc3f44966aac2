"""What the trainer and the tuner are told when they start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

GRAM_CACHE_MB = 512


@dataclass(frozen=True, slots=True)
class TrainerOptions:
    """What the trainer is told at its start; everything about a model comes with its jobs."""

    state: Path
    device: str = "auto"
    """As the daemon's setting; of several GPUs, the first is used."""
    threads: int = 0
    plugin_folders: tuple[Path, ...] = ()
    gram_cache_mb: int = GRAM_CACHE_MB
    """Most MiB kept of what makes fast heads fast."""
