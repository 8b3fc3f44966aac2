"""A wrong setting in words a person can act on: one line, no type names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

_NEEDS: Mapping[str, str] = {
    "bool_parsing": "true, false",
    "bool_type": "true, false",
    "enum": "{expected}",
    "finite_number": "a number that is not infinite",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "string_type": "text in quotes",
    "tuple_type": "a list",
}
"""What a setting must be, by pydantic's type of error."""


def describe(error: ValidationError, where: str) -> str:
    """All mistakes that one validation found, as one line that begins with `where`."""
    found: dict[str, list[ErrorDetails]] = {}
    for item in error.errors():
        found.setdefault(_name(item), []).append(item)
    return f"{where}: " + "; ".join(f"{name}: {_what(name, items)}" for name, items in found.items())


def _name(item: ErrorDetails) -> str:
    """The setting; not which of several types did not fit, nor which entry of a list."""
    return str(item["loc"][0])


def _what(name: str, items: Sequence[ErrorDetails]) -> str:
    """What is wrong with one setting. Of one that may be of several types, all that would do."""
    if items[0]["type"] == "extra_forbidden":
        return f"no such setting (got {items[0]['input']!r})"
    own = items[0]["msg"].removeprefix("Value error, ")
    if own.startswith(f"{name}: "):
        return own.removeprefix(f"{name}: ")
    what = f"must be {_either(items)}" if all(item["type"] in _NEEDS for item in items) else own
    return f"{what} (got {items[0]['input']!r})"


def _either(items: Sequence[ErrorDetails]) -> str:
    """All that would do: "'a', 'b' or 'c'"."""
    needs: list[str] = []
    for item in items:
        limits: Mapping[str, Any] = item.get("ctx", {})
        shown = {name: f"{limit:g}" if isinstance(limit, float) else limit for name, limit in limits.items()}
        needs += _NEEDS[item["type"]].format(**shown).replace(" or ", ", ").split(", ")
    *first, last = dict.fromkeys(needs)
    return f"{', '.join(first)} or {last}" if first else last
