"""Which folders under the watch root are models, and which cannot be."""

from __future__ import annotations

import os
from pathlib import Path

from tlserve.core.errors import BadModelName
from tlserve.core.types import Problem, check_model_name
from tlserve.ingest.names import is_ignored, is_set_aside, printable
from tlserve.ingest.walk import links_skipped, reason_of


def model_folders(watch: Path, *, follow_symlinks: bool) -> tuple[list[str], list[Problem]]:
    """The models directly under the watch root, sorted, and the folders that cannot be models.

    A root that cannot be listed gives no models and one `unreadable` problem.
    """
    models: list[str] = []
    problems: list[Problem] = []
    try:
        with os.scandir(watch) as entries:
            found = [
                entry for entry in entries if not is_ignored(entry.name) and not is_set_aside(entry.name)
            ]
    except OSError as exc:
        return [], [Problem("unreadable", str(watch), reason_of(exc))]
    for entry in sorted(found, key=lambda entry: entry.name):
        try:
            if not entry.is_dir():
                continue
        except OSError as exc:
            problems.append(Problem("unreadable", printable(entry.name), reason_of(exc)))
            continue
        if entry.is_symlink() and not follow_symlinks:
            problems.append(Problem("link_skipped", printable(entry.name), links_skipped(1)))
            continue
        try:
            models.append(check_model_name(entry.name))
        except BadModelName as exc:
            problems.append(Problem("bad_name", printable(entry.name), printable(str(exc))))
    return models, problems
