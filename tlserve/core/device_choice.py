"""Which devices a person asks for, as settings and flags write it. What is there, `runtime` finds out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["auto", "cpu", "cuda"]

_WORDS: dict[str, Kind] = {"auto": "auto", "cpu": "cpu", "cuda": "cuda"}
_ONE_GPU = re.compile(r"cuda:(\d{1,3})")


@dataclass(frozen=True, slots=True)
class DeviceChoice:
    """`auto`, `cpu`, `cuda`, or the GPUs by number."""

    kind: Kind
    gpus: tuple[int, ...] = ()
    """The GPUs named, in the order given; none: every one that works."""

    @property
    def first(self) -> str:
        """The same wish for a process that uses one device only."""
        return f"cuda:{self.gpus[0]}" if self.gpus else self.kind


def read_device_choice(text: str) -> DeviceChoice:
    """From `auto`, `cpu`, `cuda`, or a list such as `cuda:0,cuda:1`. Raises ValueError for anything else."""
    wish = text.strip()
    if wish in _WORDS:
        return DeviceChoice(_WORDS[wish])
    gpus = []
    for part in wish.split(","):
        found = _ONE_GPU.fullmatch(part.strip())
        if found is None:
            raise ValueError(f"must be auto, cpu, cuda, or GPUs such as cuda:0,cuda:1, not {text!r}")
        gpus.append(int(found[1]))
    if len(set(gpus)) < len(gpus):
        raise ValueError(f"names a GPU twice: {text!r}")
    return DeviceChoice("cuda", tuple(gpus))
