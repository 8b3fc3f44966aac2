"""Settings of the daemon and of single models: from flags, then TLSERVE_* variables, then tlserve.toml."""

from tlserve.settings.daemon import Settings, load_settings
from tlserve.settings.model import ModelFile, load_model_file, recipe_for

__all__ = ["ModelFile", "Settings", "load_model_file", "load_settings", "recipe_for"]
