"""A model's folder, a workshop over a fresh state, and passes in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tlserve.core.messages import Event, ImagesPassed, PassDone, PassJob, Recipe
from tlserve.ingest import Catalog
from tlserve.pipeline.passes import run_pass
from tlserve.pipeline.workshop import Workshop
from tlserve.release import Manifest, promoted
from tlserve.release.layout import StateLayout

RECIPE = Recipe("nano")


class Stage:
    """A model folder, a workshop over a fresh state, and every event of the passes run so far."""

    def __init__(self, root: Path, catalog: Catalog) -> None:
        self.layout = StateLayout(root / "state")
        self.folder = root / "watch" / "shapes"
        self.shop = Workshop(self.layout, catalog, device="cpu", threads=1, plugin_folders=())
        self.events: list[Event] = []
        self._jobs = 0

    def run(
        self,
        recipe: Recipe = RECIPE,
        *,
        cancelled: Callable[[], bool] = lambda: False,
        job_id: str | None = None,
        **more: Any,
    ) -> PassDone:
        self._jobs += 1
        job = PassJob(job_id or f"job{self._jobs}", "shapes", str(self.folder), recipe, **more)
        return run_pass(job, self.shop, self.events.append, cancelled)

    def reopen(self, plugin_folders: tuple[Path, ...] = ()) -> None:
        """A new trainer over the same state."""
        self.shop.close()
        self.shop = Workshop(
            self.layout, self.shop.catalog, device="cpu", threads=1, plugin_folders=plugin_folders
        )

    def go_live(self, version: int | None) -> None:
        """What the daemon does with a promoted version."""
        assert version is not None
        state = self.shop.versions.live("shapes")
        self.shop.versions.write_live("shapes", promoted(state, version, 0.0, "test"))

    def passed(self) -> int:
        return sum(event.n_images for event in self.events if isinstance(event, ImagesPassed))

    def manifest(self, version: int) -> Manifest:
        return self.shop.versions.manifest("shapes", version)

    def report(self, version: int) -> dict[str, Any]:
        return self.shop.versions.report("shapes", version)
