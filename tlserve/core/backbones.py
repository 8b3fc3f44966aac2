"""What can be said about a backbone beyond its name, and how fast it was seen to be: plain data, no I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from tlserve.core.precision import PrecisionTrial
from tlserve.plugin_api import BackboneInfo

SpeedOf = Literal["backbone", "files"]
BACKBONE_ALONE: SpeedOf = "backbone"
FROM_FILES: SpeedOf = "files"


@dataclass(frozen=True, slots=True)
class Speed:
    """One measurement of a build."""

    of: SpeedOf
    """The backbone alone, or everything from an image file to its row, as while learning."""
    batch_size: int
    """Images handed over at once; 0 where that was for tlserve to choose."""
    images_per_second: float
    device: str
    """As `runtime.Device` names it."""
    hardware: str
    """The processor that did it; a speed counts only where this is the same."""
    threads: int
    measured_at: float
    """Unix time."""

    @property
    def circumstances(self) -> tuple[object, ...]:
        """A newer measurement under the same ones replaces an older one."""
        return self.of, self.batch_size, self.device, self.hardware


@dataclass(frozen=True, slots=True)
class BackboneDescription:
    """Everything known about one backbone that was loaded."""

    name: str
    """As the user wrote it."""
    plugin: str
    source: str
    """Where its plugin was found, in words."""
    info: BackboneInfo
    trainable: bool
    """Whether it can be fine-tuned."""
    build: str
    """Digest of the build that is made, or would be made, of it."""
    build_folder: str = ""
    """Where that build lies; empty until it is made."""
    build_bytes: int = 0
    speeds: tuple[Speed, ...] = ()
    """As measured on this machine."""
    precision: str = "fp32"
    """Of that build."""
    trial: PrecisionTrial | None = None
    """What `precision = auto` decided on in this state; None while it did not."""


def typical_speed(speeds: Iterable[Speed]) -> Speed | None:
    """The one to show where there is room for one: of the backbone alone before that of files, then of the
    largest batch, then the newest."""
    return max(
        speeds,
        key=lambda speed: (speed.of == BACKBONE_ALONE, speed.batch_size, speed.measured_at),
        default=None,
    )


def newest_speeds(speeds: Iterable[Speed]) -> tuple[Speed, ...]:
    """Of those under the same circumstances only the newest, in order of age."""
    kept: dict[tuple[object, ...], Speed] = {}
    for speed in sorted(speeds, key=lambda speed: speed.measured_at):
        kept.pop(speed.circumstances, None)
        kept[speed.circumstances] = speed
    return tuple(kept.values())
