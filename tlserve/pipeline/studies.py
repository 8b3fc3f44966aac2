"""What was studied already: a search for a better version is worth its time once, until the data grow."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from tlserve.core.messages import Recipe
from tlserve.core.plan import Strategy
from tlserve.core.types import Snapshot
from tlserve.core.wire import as_json, from_json
from tlserve.release.disk import replace_file, store_errors

GROWN = 0.1
"""A study is out of date when the images are this share more, or fewer, than they were."""
TUNE_AGAIN = 1.5
"""A backbone is fine-tuned anew when the images are this many times as many as the last time."""


@dataclass(frozen=True, slots=True)
class Study:
    """One search for a better version, at its end."""

    build: str
    """Digest of the build that the recipe's backbone has; not of one fine-tuned from it."""
    wish: str
    """Digest of what the settings asked for."""
    n_images: int
    classes: tuple[str, ...]
    found: str
    """What came of it, in words."""
    n_images_at_tuning: int = 0
    """Images when the last fine-tuning was ordered; 0 if none was."""
    tuning: str = ""
    """Digest of what the settings asked of fine-tuning when it was last called for."""
    problem: str = ""
    """Why what the settings ask for cannot be done; studying again would end the same way."""

    def covers(self, snapshot: Snapshot, build: str, recipe: Recipe) -> bool:
        """Whether studying again would, as far as one can tell, find the same."""
        grown = abs(len(snapshot.images) - self.n_images) > GROWN * self.n_images
        same = (self.build, self.wish, self.classes) == (build, wish_digest(recipe), snapshot.classes)
        return same and not grown


def is_due(
    before: Study | None, tuned_at: int, snapshot: Snapshot, recipe: Recipe, *, tuned_as: str | None = None
) -> bool:
    """Whether a fine-tuning that the strategy asks for should begin: not again on nearly the same images.

    tuned_as: the `tuning_digest` of now, where the model is learnt on a fine-tuned build: another head, say,
    is then no reason to fine-tune it anew.
    """
    if before is None or not tuned_at:
        return True
    if before.wish != wish_digest(recipe) and before.tuning != tuned_as:
        return True
    return before.classes != snapshot.classes or len(snapshot.images) >= TUNE_AGAIN * tuned_at


def wish_digest(recipe: Recipe) -> str:
    """Names what the settings ask of training, so that a change of mind is noticed."""
    told = json.dumps({"wish": as_json(recipe.wish), "seed": recipe.seed}, sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def tuning_digest(recipe: Recipe, strategy: Strategy) -> str:
    """Names what the settings ask of a fine-tuning, as far as its result depends on it."""
    wish = recipe.wish
    told = [strategy, wish.tune.unfreeze, wish.tune.epochs, list(wish.augment), wish.views, recipe.seed]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def read_study(path: Path) -> Study | None:
    """The last study of a model; None without one, or when the file is of no use: then it is made anew."""
    try:
        return from_json(Study, json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def write_study(path: Path, study: Study) -> None:
    """Raises StoreUnavailable."""
    with store_errors(path, "write"):
        replace_file(path, json.dumps(as_json(study), indent=1).encode() + b"\n")
