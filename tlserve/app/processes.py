"""The command lines of the daemon's child processes."""

from __future__ import annotations

import sys
from pathlib import Path

from tlserve.core.device_choice import read_device_choice
from tlserve.settings import Settings

TRAINER_NICENESS = 10
TUNER_NICENESS = 15
"""Hours of work, if need be: it gives way to everything else."""


def trainer_command(settings: Settings, state: Path, *, niceness: int = TRAINER_NICENESS) -> list[str]:
    """argv of a trainer process for these settings."""
    command = [sys.executable, "-m", "tlserve.pipeline", "--state", str(state)]
    device = read_device_choice(settings.device).first
    command += ["--device", device, "--threads", str(settings.threads), "--niceness", str(niceness)]
    command += ["--gram-cache-mb", str(settings.gram_cache_mb)]
    for folder in settings.plugin_folders:
        command += ["--plugin-folder", str(folder.absolute())]
    return command


def tuner_command(settings: Settings, state: Path, *, niceness: int = TUNER_NICENESS) -> list[str]:
    """argv of a tuner process for these settings."""
    return [*trainer_command(settings, state, niceness=niceness), "--role", "tuner"]
