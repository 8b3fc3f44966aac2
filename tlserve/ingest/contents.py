"""Which files hold which content, and which of them speaks for it; kept up to date change by change.

Copies count once: the first by path speaks. A content that lies in more than one class has no speaker.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tlserve.core.types import Problem
from tlserve.ingest.catalog import KnownFile
from tlserve.ingest.names import label_of

Holders = str | list[str]
"""A path, or several in order: nearly every content lies in one file."""


class Voices(NamedTuple):
    """digest -> path."""

    silenced: dict[str, str]
    """Files that spoke for their content and do not any more."""
    speaking: dict[str, str]
    """Files that speak now and did not."""


class Contents:
    def __init__(self) -> None:
        self._holders: dict[str, Holders] = {}
        self._conflicts: dict[str, list[str]] = {}

    def __contains__(self, digest: str) -> bool:
        return digest in self._holders

    def a_holder(self, digest: str) -> str | None:
        """The path of some file with this content."""
        held = self._holders.get(digest)
        return held[0] if isinstance(held, list) else held

    def change(self, left: Iterable[KnownFile], came: Iterable[KnownFile]) -> Voices:
        """Files that went, or have another content now, and files that are there now."""
        holders = self._holders
        before: dict[str, str | None] = {}
        for file in left:
            held = holders[file.digest]
            if file.digest not in before:
                before[file.digest] = _speaker(held)
            if isinstance(held, list):
                del held[bisect_left(held, file.path)]
                if len(held) == 1:
                    holders[file.digest] = held[0]
            else:
                del holders[file.digest]
        for file in came:
            there = holders.get(file.digest)
            if file.digest not in before:
                before[file.digest] = None if there is None else _speaker(there)
            if there is None:
                holders[file.digest] = file.path
            elif isinstance(there, list):
                insort(there, file.path)
            else:
                holders[file.digest] = sorted((there, file.path))
        return self._voices(before)

    def _voices(self, before: dict[str, str | None]) -> Voices:
        voices = Voices({}, {})
        for digest, old in before.items():
            held = self._holders.get(digest)
            new = None if held is None else _speaker(held)
            if new is None and isinstance(held, list):
                self._conflicts[digest] = held
            else:
                self._conflicts.pop(digest, None)
            if new != old:
                if old is not None:
                    voices.silenced[digest] = old
                if new is not None:
                    voices.speaking[digest] = new
        return voices

    def problems(self) -> Iterator[Problem]:
        for first, *others in self._conflicts.values():
            elsewhere = " and in ".join(path for path in others if label_of(path) != label_of(first))
            advice = "left out of training until only one class has it"
            yield Problem("conflict", first, f"the same image is also in {elsewhere}; {advice}")


def _speaker(held: Holders) -> str | None:
    if isinstance(held, str):
        return held
    label = label_of(held[0])
    return held[0] if all(label_of(path) == label for path in held) else None
