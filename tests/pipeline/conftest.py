"""Stages over the bundled backbone, whose build is made once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flow.daemon_process import draw_shapes
from tests.pipeline.stage import Stage
from tlserve.ingest import Catalog
from tlserve.pipeline.workshop import Workshop
from tlserve.release.layout import StateLayout


@pytest.fixture(scope="session")
def built_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory that holds the build of `nano` already: making it takes seconds."""
    root = tmp_path_factory.mktemp("built")
    with Catalog(root / "catalog.sqlite3") as catalog:
        Workshop(StateLayout(root), catalog, device="cpu", threads=1, plugin_folders=()).build("nano")
    return root


@pytest.fixture
def stage(tmp_path: Path, built_state: Path) -> Iterator[Stage]:
    shutil.copytree(built_state / "backbones", tmp_path / "state" / "backbones")
    with Catalog(tmp_path / "state" / "catalog.sqlite3") as catalog:
        stage = Stage(tmp_path, catalog)
        for seed, shape in enumerate(("disc", "bar")):
            draw_shapes(stage.folder / shape, shape, 40, seed=seed)
        yield stage
        stage.shop.close()
