"""Fixtures of the ingest tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ingest.model_folder import Flowers
from tlserve.core.types import Snapshot


@pytest.fixture
def flowers(tmp_path: Path) -> Iterator[Flowers]:
    """Two classes of 10: daisy (seeds 0 to 9) and roses (seeds 100 to 109)."""
    model = Flowers(tmp_path)
    model.fill("daisy", 10)
    model.fill("roses", 10, first_seed=100)
    yield model
    model.catalog.close()


@pytest.fixture
def seen(flowers: Flowers) -> Snapshot:
    """The first snapshot of `flowers`."""
    return flowers.reconcile()


@pytest.fixture
def problems() -> Callable[[Snapshot, str], dict[str, str]]:
    """problems(snapshot, kind) -> {where: reason}."""
    return lambda snapshot, kind: {p.where: p.reason for p in snapshot.problems if p.kind == kind}


@pytest.fixture
def permissions_hold(tmp_path: Path) -> None:
    """Skips the test where permissions bind nobody, as for root."""
    probe = tmp_path / "probe"
    probe.touch(0)
    if os.access(probe, os.R_OK):
        pytest.skip("permissions do not bind this user")


@pytest.fixture
def copy() -> Callable[[Path, Path], Path]:
    def copy_file(source: Path, target: Path) -> Path:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        return target

    return copy_file
