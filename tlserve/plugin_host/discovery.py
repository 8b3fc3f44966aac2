"""Where plugins are found: installed entry points, and single .py files in configured folders.

Finding runs none of their code; `Claim.open` does.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

from tlserve.core.errors import BackboneProblem
from tlserve.plugin_api import Plugin

PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Claim:
    """One plugin's claim to a prefix."""

    prefix: str
    source: str
    """Where it was found, in words a person can act on."""
    open: Callable[[], object]
    """Runs the plugin's code and gives what it offers; may raise anything."""
    file: Path | None = None
    """Of a single-file plugin: errors name the line in it."""


def installed_claims(entry_points: Iterable[EntryPoint]) -> Iterator[Claim]:
    """One claim per entry point; an installation that is listed twice counts once."""
    seen = set()
    for point in entry_points:
        if (point.name, point.value) in seen:
            continue
        seen.add((point.name, point.value))
        package = f"package {point.dist.name} {point.dist.version}" if point.dist else "an installed package"
        yield Claim(point.name, f"{package}, {point.value}", point.load)


def folder_claims(folders: Sequence[Path]) -> Iterator[Claim]:
    """One claim per .py file; names that begin with `_` or `.` are the author's own business.

    A folder that is named twice counts once.
    """
    for folder in {os.path.realpath(folder): folder for folder in folders}.values():
        try:
            files = _plugin_files(folder)
        except OSError as exc:
            unreadable = partial(_unreadable, folder, exc.strerror or str(exc))
            yield Claim(folder.name or str(folder), f"plugin folder {folder}", unreadable)
            continue
        for path in files:
            yield Claim(path.stem, f"file {path}", partial(_plugin_of_file, path), path)


def folder_stamp(folders: Sequence[Path]) -> object:
    """Equal as long as no plugin file of the folders is added, edited or removed."""
    stamp: list[tuple[str, int, int, int]] = []
    for folder in folders:
        files: list[Path] = []
        with contextlib.suppress(OSError):
            files = _plugin_files(folder)
        for path in files:
            with contextlib.suppress(OSError):  # removed since it was listed
                now = path.stat()
                stamp.append((str(path), now.st_mtime_ns, now.st_size, now.st_ino))
    return stamp


def opened(claim: Claim) -> Plugin:
    """The plugin behind a claim. Raises BackboneProblem, whatever goes wrong inside it.

    Whatever: libraries in other languages raise what is no Exception (a panic in Rust, by PyO3), and the
    trainer must outlive it. No Ctrl-C comes here; the process is in a group of its own.
    """
    who = f"plugin {claim.prefix!r} ({claim.source})"
    if not PREFIX.fullmatch(claim.prefix):
        raise BackboneProblem(f"{who}: a prefix holds letters, digits, '.', '_' and '-' only")
    try:
        offered = claim.open()
        plugin = offered() if isinstance(offered, type) else offered
        if isinstance(plugin, Plugin):
            return plugin
    except BackboneProblem:
        raise
    except BaseException as exc:
        raise BackboneProblem(f"{who} does not load: {described(exc)}{_line_in(claim.file, exc)}") from exc
    raise BackboneProblem(f"{who} offers a {type(plugin).__name__}, which has no `names` and `load` methods")


def described(exc: BaseException) -> str:
    """An error of foreign code in one line: its kind and what it says."""
    text = " ".join(str(exc).split())
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def _line_in(file: Path | None, exc: BaseException) -> str:
    """Where in the plugin's own file it happened, in brackets; empty where that is not known.

    A SyntaxError has no frame in the file, and says its line itself.
    """
    frames = traceback.walk_tb(exc.__traceback__)
    lines = [line for frame, line in frames if frame.f_code.co_filename == str(file)]
    return f" (line {lines[-1]})" if lines else ""


def _plugin_files(folder: Path) -> list[Path]:
    """Sorted. Raises OSError for a folder that cannot be read; `glob` would be silent about some."""
    return sorted(p for p in folder.iterdir() if p.suffix == ".py" and not p.name.startswith(("_", ".")))


def _plugin_of_file(path: Path) -> object:
    """Run a single-file plugin and give its PLUGIN.

    Not by an import: that would leave __pycache__ in the user's folder, and could run an outdated one
    when a file is edited twice within a second.
    """
    name = f"tlserve_plugin_file_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up by name
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
        return module.PLUGIN
    except AttributeError as exc:
        del sys.modules[name]
        if exc.name == "PLUGIN" and exc.obj is module:
            raise BackboneProblem(f"plugin {path.stem!r} (file {path}) has no variable PLUGIN") from exc
        raise
    except BaseException:
        del sys.modules[name]
        raise


def _unreadable(folder: Path, reason: str) -> object:
    raise BackboneProblem(f"the plugin folder {folder} cannot be read: {reason}")
