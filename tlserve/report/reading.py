"""Careful access to a report: older versions lack parts, and a missing part must never be an error.

A report is JSON, so everything read from it is checked for the type that is needed and otherwise absent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]


def part(parent: object, *names: str) -> Json:
    """The object under `names`, one inside the other; empty where there is none."""
    found = parent
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def objects(value: object) -> list[Json]:
    """The objects of a JSON list; empty for anything else."""
    return [one for one in items(value) if isinstance(one, Mapping)]


def items(value: object) -> list[Any]:
    """A JSON list; empty for anything else."""
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else []


def number(value: object) -> float | None:
    """A finite number; None for anything else, NaN included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def first(parent: Json, *names: str) -> object:
    """The value under the first of `names` that is there: older versions wrote some under another one."""
    return next((parent[name] for name in names if parent.get(name) is not None), None)


def whole(value: object) -> int:
    """A count; 0 where there is none."""
    found = number(value)
    return 0 if found is None else round(found)


def text(value: object) -> str:
    """A word or sentence; "" where there is none."""
    return value if isinstance(value, str) else ""


def texts(value: object) -> list[str]:
    """The texts of a JSON list."""
    return [one for one in items(value) if isinstance(one, str)]
