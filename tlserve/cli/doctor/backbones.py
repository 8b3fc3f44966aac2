"""Checks of the backbones: what the plugins offer, and whether those that are wanted can be loaded.

A backbone is wanted by the daemon's settings, by a model.toml, or since a person adopted it. Whether its
weights are there, only loading it tells; that happens in a process of its own, since a plugin that breaks
must not break the doctor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tlserve.cli.doctor.check import Check, fail, ok, warn
from tlserve.core.errors import SettingsError, TlserveError
from tlserve.settings import Settings, load_model_file

if TYPE_CHECKING:
    from tlserve.release import VersionStore


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which backbones are wanted, by whom, and which model.toml files do not say."""

    by: dict[str, list[str]]
    """Backbone -> who wants it: "" (the daemon's settings), the path of a model.toml, or the command that
    adopted it.
    """
    broken: dict[str, str] = field(default_factory=dict)
    """Model -> what is wrong with its model.toml."""


def check_backbones(settings: Settings) -> Iterator[Check]:
    """Every plugin, and every wanted backbone with its weights."""
    from tlserve.app import survey_backbones_once

    wanted = wanted_backbones(settings)
    for model, problem in wanted.broken.items():
        yield fail(f"settings of {model}", problem, "mend the file; until then the model is not trained")
    survey = survey_backbones_once(settings, tuple(wanted.by))
    # A broken plugin that is wanted is told of below, by the backbone that it should give.
    needed = {entry.plugin for entry in survey.checked if entry.error}
    for entry in survey.offered:
        if entry.error and entry.plugin not in needed:
            yield warn(f"plugin {entry.name}", entry.error, f"mend or uninstall plugin {entry.plugin!r}")
    sound = [entry for entry in survey.offered if not entry.error]
    plugins = ", ".join(sorted({entry.plugin for entry in sound}))
    if sound:
        yield ok("backbones", f"{len(sound)} offered by {plugins}")
    else:
        yield fail("backbones", "no plugin offers any", "reinstall tlserve, or install a plugin")
    for checked in survey.checked:
        name, wanters = f"backbone {checked.name}", wanted.by[checked.name]
        if checked.error:
            yield fail(name, checked.error, _advice(wanters))
        else:
            yield ok(name, f"{checked.detail}; wanted by {_in_words(wanters)}")


def wanted_backbones(settings: Settings) -> Wanted:
    """The daemon's default, what the model.toml files under the watch root name, and what was adopted."""
    from tlserve.ingest import model_folders
    from tlserve.release import VersionStore
    from tlserve.release.layout import StateLayout

    wanted = Wanted({settings.backbone: [""]})
    if not settings.watch.is_dir():
        return wanted
    versions = VersionStore(StateLayout(settings.state).models)
    models, _ = model_folders(settings.watch, follow_symlinks=settings.follow_symlinks)
    for model in models:
        try:
            backbone = load_model_file(settings.watch / model).backbone
        except SettingsError as exc:
            wanted.broken[model] = str(exc)
            continue
        adopted = _adopted(versions, model)
        if adopted is not None:
            wanted.by.setdefault(adopted, []).append(f"tlserve adopt {model}")
        elif backbone is not None:
            wanted.by.setdefault(backbone, []).append(str(Path(settings.watch) / model / "model.toml"))
    return wanted


def _adopted(versions: VersionStore, model: str) -> str | None:
    """What a person adopted for the model; a damaged LIVE says nothing here: the daemon tells of it."""
    try:
        return versions.live(model).backbone
    except TlserveError:
        return None


def _in_words(wanters: list[str]) -> str:
    return ", ".join(wanter or "the settings here" for wanter in wanters)


def _advice(wanters: list[str]) -> str:
    places = [wanter or "--backbone (or the settings)" for wanter in wanters]
    return f"mend that, or name another backbone in {' and '.join(places)}"
