"""Fixtures of the end-to-end tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.flow.daemon_process import DaemonProcess, draw_shapes


@pytest.fixture
def make_daemon(tmp_path: Path) -> Iterator[Callable[..., DaemonProcess]]:
    """Makes daemons over tmp_path/watch and tmp_path/state; kills what a failed test leaves running."""
    made: list[DaemonProcess] = []

    def make(backbone: str = "nano", *extra: str) -> DaemonProcess:
        (tmp_path / "watch").mkdir(exist_ok=True)
        daemon = DaemonProcess(
            tmp_path / "watch", tmp_path / "state", backbone, tmp_path / "daemon.log", extra
        )
        made.append(daemon)
        return daemon

    yield make
    for daemon in made:
        daemon.kill()


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """A model folder `shapes` with discs and bars under the watch root; returns the folder."""
    folder = tmp_path / "watch" / "shapes"
    for seed, shape in enumerate(("disc", "bar")):
        draw_shapes(folder / shape, shape, 25, seed=seed)
    return folder
