"""A watched model folder with real pictures, and a catalog beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tlserve.core.types import Snapshot
from tlserve.ingest import Catalog, ScanRules, reconcile


def picture(path: Path, seed: int, *, quality: int = 90) -> Path:
    """A picture unlike those of other seeds: 8 x 8 random patches, enlarged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    patches = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(patches).resize((64, 48), Image.Resampling.BICUBIC)
    image.save(path, "JPEG", quality=quality)
    return path


class Flowers:
    """One model folder under test and the catalog that knows it."""

    def __init__(self, root: Path) -> None:
        self.watch = root / "watch"
        self.folder = self.watch / "flowers"
        self.folder.mkdir(parents=True)
        self.catalog = Catalog(root / "catalog.sqlite3")

    def fill(self, label: str, n_images: int, first_seed: int = 0) -> list[Path]:
        return [
            picture(self.folder / label / f"{seed:03}.jpg", seed)
            for seed in range(first_seed, first_seed + n_images)
        ]

    def reconcile(
        self, *, follow_symlinks: bool = False, max_pixels: int = 64_000_000, **more: Any
    ) -> Snapshot:
        rules = ScanRules(follow_symlinks=follow_symlinks, max_pixels=max_pixels)
        return reconcile(self.catalog, "flowers", self.folder, rules, **more)

    def away(self, name: str) -> Path:
        """A place on the same disk outside the watch root."""
        return self.watch.parent / name
