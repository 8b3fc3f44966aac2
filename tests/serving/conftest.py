"""A fresh state folder with two builds for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.serving.support_serving import Stage


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage.make(tmp_path)
