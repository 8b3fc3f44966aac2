"""Getting at a plugin under test the way tlserve does, in this process or in another one."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

from tlserve.plugin_api import ENTRY_POINT_GROUP


def offered_at(where: str | Path) -> object:
    """What the plugin's author offers, made if it is a class; whatever their code raises comes through.

    where: a single-file plugin as a Path, or a package's entry point as text, such as ``package:PLUGIN``.
    """
    offered = _of_file(where) if isinstance(where, Path) else _of_entry_point(where)
    return offered() if isinstance(offered, type) else offered


def where_in_words(where: str | Path) -> str:
    """One text for both kinds, which `where_of` reads again: a command line carries it."""
    return f"file {where.absolute()}" if isinstance(where, Path) else f"entry {where}"


def where_of(words: str) -> str | Path:
    kind, _, rest = words.partition(" ")
    return Path(rest) if kind == "file" else rest


def _of_entry_point(value: str) -> object:
    if ":" not in value:
        raise ValueError(
            f"write package:OBJECT as in pyproject.toml, or a Path to a single-file plugin; not {value!r}"
        )
    return EntryPoint("under_test", value, ENTRY_POINT_GROUP).load()


def _of_file(path: Path) -> object:
    """Run, not imported, as tlserve does it: an import would leave __pycache__ beside the file."""
    module = ModuleType(f"tlserve_plugin_under_test_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses and pickle look a class's module up by name
    exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    return module.PLUGIN
