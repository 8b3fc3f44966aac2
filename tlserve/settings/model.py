"""The optional model.toml in a model's folder, and the recipe that it and the daemon's settings make."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import ConfigDict, Field, ValidationError

from tlserve.core.errors import SettingsError
from tlserve.core.judge import Policy
from tlserve.core.lifecycle import Promotion
from tlserve.core.messages import Recipe
from tlserve.core.precision import Precision
from tlserve.settings.daemon import Settings
from tlserve.settings.learning import LearningOverrides, learning, wish_of
from tlserve.settings.mistakes import describe

FILE_NAME = "model.toml"


class ModelFile(LearningOverrides):
    """What model.toml may say; whatever it leaves out comes from the daemon's settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backbone: str | None = None
    precision: Precision | None = None
    promotion: Promotion | None = None
    max_drop: float | None = Field(default=None, ge=0, le=1)
    recall_floor: float | None = Field(default=None, ge=0, le=1)
    unknown_threshold: float | None = Field(default=None, ge=0, le=1)
    follow_symlinks: bool | None = None
    keep_versions: int | None = Field(default=None, ge=2)
    seed: int = Field(default=0, ge=0, lt=2**63)


def load_model_file(folder: Path) -> ModelFile:
    """The folder's model.toml, or an empty one. Raises SettingsError naming the file and the setting."""
    path = folder / FILE_NAME
    try:
        return ModelFile.model_validate(tomllib.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return ModelFile()
    except ValidationError as exc:
        raise SettingsError(describe(exc, str(path))) from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{path} is not valid TOML: {exc}") from exc
    except OSError as exc:
        raise SettingsError(f"{path} cannot be read: {exc.strerror}") from exc


T = TypeVar("T")


def chosen(own: T | None, general: T) -> T:
    """The model's own setting where it has one."""
    return general if own is None else own


def recipe_for(
    settings: Settings, file: ModelFile, promotion: Promotion | None = None, backbone: str | None = None
) -> Recipe:
    """How to train one model. `promotion` and `backbone` are what a person said by command, which outranks
    both files.
    """
    how = learning(settings, file)
    return Recipe(
        backbone=backbone or chosen(file.backbone, settings.backbone),
        promotion=promotion or chosen(file.promotion, settings.promotion),
        policy=Policy(
            max_drop=chosen(file.max_drop, settings.max_drop),
            recall_floor=chosen(file.recall_floor, settings.recall_floor),
        ),
        follow_symlinks=chosen(file.follow_symlinks, settings.follow_symlinks),
        max_pixels=settings.max_pixels,
        keep_versions=chosen(file.keep_versions, settings.keep_versions),
        seed=file.seed,
        wish=wish_of(how),
        study=how.study,
        precision=chosen(file.precision, settings.precision),
        instant=how.instant,
        instant_budget_seconds=how.instant_budget_seconds,
        first_images=how.first_images,
    )
