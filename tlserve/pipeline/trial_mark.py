"""A mark in the fp32 build while its precision is tried: what a process that died in between left behind.

Rows that a trial left are no sign of an older state, and a trial that ends the process every time (memory,
a crash in native code) must not be begun for ever.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

BEGUN_FILE = "trial.begun"
MOST_CUT_SHORT = 5
"""Trials that ended with the process, after which there is no other. A daemon that is stopped meanwhile
counts too, so that it is not fewer."""


class TrialMark:
    """The mark of one build. Raises OSError where the disk refuses it."""

    def __init__(self, build: Path) -> None:
        self._file = build / BEGUN_FILE

    @property
    def is_set(self) -> bool:
        """Whether a trial was begun here, and nothing recorded since."""
        return self._file.exists()

    @property
    def cut_short(self) -> int:
        """How many trials began and never came to an end."""
        with contextlib.suppress(OSError, ValueError):
            return int(self._file.read_text())
        return 0

    def begin(self) -> None:
        self._file.write_text(str(self.cut_short + 1))

    def set_aside(self) -> None:
        """This trial ends without a verdict, and not with the process."""
        self._file.write_text(str(max(0, self.cut_short - 1)))

    def remove(self) -> None:
        self._file.unlink(missing_ok=True)
