"""What this machine's processor can do with 8-bit numbers, which decides what an int8 build gives here.

An int8 build multiplies unsigned activations by signed weights and adds the products up. Processors with
instructions for exactly that add in 32 bits. Older x86 processors add two products in 16 bits first, where
large ones saturate: other features than those the head was trained on, and without an error.
"""

from __future__ import annotations

import contextlib
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_X86 = ("x86_64", "amd64", "i386", "i686")
_EXACT_X86 = ("avx512_vnni", "avx_vnni", "amx_int8")
"""As Linux calls them; one is enough."""
_EXACT_ARM = ("i8mm", "asimddp")
"""Matrix and dot products of 8-bit numbers; an ARM processor without them is slower, and still exact."""


@dataclass(frozen=True, slots=True)
class Processor:
    """The processor of this machine, as far as it can be told."""

    name: str
    """Its maker's words, else the architecture."""
    int8: tuple[str, ...] = ()
    """What it has for sums of 8-bit products, as Linux calls it; nothing where that cannot be told."""
    saturates: bool | None = None
    """Whether sums of 8-bit products come out too small where they are large; None: cannot be told."""

    def describe(self) -> str:
        """As a build keeps it, and as messages say it."""
        if self.int8:
            return f"{self.name} ({', '.join(self.int8)})"
        return f"{self.name} (no VNNI)" if self.saturates else self.name


@cache
def this_processor() -> Processor:
    """Of the machine that this process runs on; read once."""
    text = ""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    return processor_in(text, platform.machine(), platform.processor())


def processor_in(cpuinfo: str, machine: str, name: str = "") -> Processor:
    """What the text of Linux' /proc/cpuinfo tells; empty text where there is no such file.

    machine: the architecture; name: what to call the processor where the text does not.
    """
    facts = _first_of_each(cpuinfo)
    called = facts.get("model name") or name or machine or "an unknown processor"
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    found = tuple(flag for flag in (*_EXACT_X86, *_EXACT_ARM) if flag in flags)
    if machine.lower() not in _X86:
        return Processor(called, found, saturates=False if machine.lower() in ("aarch64", "arm64") else None)
    return Processor(called, found, saturates=not found if flags else None)


def _first_of_each(cpuinfo: str) -> dict[str, str]:
    """The first processor's lines; the others are alike."""
    facts: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            facts.setdefault(key.strip(), value.strip())
    return facts
