"""The watch root and each model's model.toml, as last read: what is asked here touches no disk.

A network folder may hang; the event loop must not hang with it. So the disk is read on threads, by the
scheduler's looks, and everybody else is answered from memory.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from tlserve.core.errors import SettingsError
from tlserve.core.lifecycle import Promotion
from tlserve.core.messages import Recipe
from tlserve.core.types import Problem
from tlserve.ingest import model_folders
from tlserve.settings import ModelFile, Settings, load_model_file, recipe_for


@dataclass(frozen=True, slots=True)
class Listing:
    """What was directly under the watch root at the last look."""

    models: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    """Folders that cannot be models."""


class WatchedFolders:
    """Reads on threads, answers anywhere."""

    def __init__(self, watch: Path, settings: Settings) -> None:
        self.watch = watch
        self.listing = Listing()
        self._settings = settings
        self._files: dict[str, ModelFile] = {}

    # -- on a thread

    def look(self) -> Listing:
        """List the watch root, and read the model.toml of models not seen before."""
        names, problems = model_folders(self.watch, follow_symlinks=self._settings.follow_symlinks)
        for name in names:
            if name not in self._files:
                with contextlib.suppress(SettingsError):  # the model's pass says what is wrong
                    self.read_settings(name)
        self.listing = Listing(tuple(names), tuple(problems))
        return self.listing

    def read_settings(self, model: str) -> None:
        """Read the model's model.toml again. Raises SettingsError."""
        self._files[model] = load_model_file(self.watch / model)

    # -- anywhere

    def recipe(self, model: str, promotion: Promotion | None, backbone: str | None) -> Recipe:
        """How the model is trained. promotion, backbone: said by command, which outranks the files."""
        return recipe_for(self._settings, self._files.get(model, ModelFile()), promotion, backbone)

    def unknown_threshold(self, model: str) -> float:
        """Novelty above which an answer counts as unknown."""
        file = self._files.get(model)
        own = file.unknown_threshold if file else None
        return self._settings.unknown_threshold if own is None else own
