"""Names and values of a part of the report whose fields nobody knows beforehand, one line each, in words."""

from __future__ import annotations

from collections.abc import Mapping

from tlserve.report import words
from tlserve.report.reading import Json, number

Fact = tuple[str, str]

_SHARES = frozenset({"accuracy", "gain", "chance", "similarity", "share"})
_SHARE_NAMES = frozenset({"similar_from"})
"""Numbers with such a word in their name, or with such a name, are shares in [0, 1]."""


def facts_of(values: Json, *, without: frozenset[str] = frozenset()) -> list[Fact]:
    """Name and value of what can be said in a line; what is nested or missing is left out."""
    found = ((str(name), value) for name, value in values.items() if name not in without)
    return [(_name(name), said) for name, value in found if (said := _said(name, value))]


def all_facts_of(values: Json, within: str = "") -> list[Fact]:
    """The same with what is nested, unfolded under the name of its group."""
    facts = [(within + name, said) for name, said in facts_of(values)]
    for name, value in values.items():
        if isinstance(value, Mapping):
            facts += all_facts_of(value, f"{within}{words.spaced(str(name))}: ")
    return facts


def _name(name: str) -> str:
    for unit in ("seconds", "bytes"):
        if name.endswith(unit):
            return words.spaced(name.removesuffix(unit).rstrip("_")) or "time"
    return words.spaced(name.removeprefix("n_"))


def _said(name: str, value: object) -> str:
    if isinstance(value, list) and value and all(isinstance(one, str | int | float) for one in value):
        return ", ".join(map(words.value_text, value))
    amount = number(value)
    if amount is None:
        return words.value_text(value) if isinstance(value, str | bool) else ""
    if name.endswith("seconds"):
        return words.seconds(amount)
    if name.endswith("bytes"):
        return f"{words.small(amount / 1e6)} MB"
    if name in _SHARE_NAMES or _SHARES & set(name.split("_")):
        return words.percent(amount)
    return words.value_text(value)
