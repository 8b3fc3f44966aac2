"""Long lists in order of path that change a little: what a change costs does not grow with the list."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

Item = TypeVar("Item")

ANEW_FROM_SHARE = 1000
"""Where more than one in so many changes, the whole list is put in order anew."""


def edit(
    items: list[Item], out: Collection[str], new: Sequence[Item], path_of: Callable[[Item], str]
) -> list[Item]:
    """Take out the items with these paths, which are all there, and put in `new`; returns what went."""
    if (len(out) + len(new)) * ANEW_FROM_SHARE < len(items):
        removed = [items.pop(bisect_left(items, path, key=path_of)) for path in out]
        for item in new:
            insort(items, item, key=path_of)
        return removed
    removed = []
    if out:
        paths = set(out)
        removed = [item for item in items if path_of(item) in paths]
        items[:] = [item for item in items if path_of(item) not in paths]
    items += new
    items.sort(key=path_of)
    return removed


def below(paths: list[str], folder: str) -> list[str]:
    """Of paths in order, those in a folder."""
    # "0" comes right after "/".
    return paths[bisect_left(paths, folder + "/") : bisect_left(paths, folder + "0")]
