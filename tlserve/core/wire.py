"""Frozen dataclasses as JSON and back, by their own annotations: for messages, and for small state files."""

from __future__ import annotations

import dataclasses
import types
import typing
from enum import StrEnum
from typing import Any, TypeVar

T = TypeVar("T")


def as_json(value: Any) -> Any:
    """A dataclass as what `json.dumps` takes; `from_json` is the inverse."""
    return dataclasses.asdict(value)


def from_json(kind: type[T], raw: Any) -> T:
    """`raw`, as parsed from JSON, as an instance of the dataclass `kind`.

    Raises TypeError, AttributeError, KeyError or ValueError for what is not one. A field that is absent
    takes its default; one that `kind` does not have is an error.
    """
    return typing.cast(T, _build(kind, raw))


def _build(kind: Any, value: Any) -> Any:
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return typing.cast(Any, kind)(**{name: _build(hints[name], item) for name, item in value.items()})
    if origin is tuple:
        return tuple(_build(typing.get_args(kind)[0], item) for item in value)
    if origin in (typing.Union, types.UnionType):
        return _either(typing.get_args(kind), value)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return kind(value)
    return value


def _either(kinds: tuple[Any, ...], value: Any) -> Any:
    """The first alternative that takes the value: `None`, a name of an enum, a dataclass, or itself."""
    if value is None:
        return None
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, StrEnum):
            if value in kind._value2member_map_:
                return kind(value)
        elif dataclasses.is_dataclass(kind) or typing.get_origin(kind) is tuple:
            return _build(kind, value)
    return value
