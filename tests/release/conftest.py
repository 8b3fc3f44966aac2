"""Heads and drafts small enough to publish by the dozen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tlserve.core.head import Dense, Head, Novelty
from tlserve.release import Draft, Manifest, VersionStore

DRAFT = Draft(
    job_id="job",
    created=1_790_000_000.25,
    backbone="nano",
    build="b" * 64,
    snapshot_id="s" * 64,
    counts={"roses": 7, "Gänse blümchen": 5},
    verdict="promote",
    reason="first version",
    evidence="first",
    accuracy=0.9,
    accuracy_low=0.8,
    accuracy_high=0.95,
    timeline={"training": 0.25},
    noticed_at=1_789_999_999.0,
)


def small_head(seed: int = 0, *, n_layers: int = 1, novelty: bool = True) -> Head:
    random = np.random.default_rng(seed)

    def draw(*shape: int) -> Any:
        return random.normal(size=shape).astype(np.float32)

    widths = [6, 2] if n_layers == 1 else [6, 4, 2]
    return Head(
        labels=("Gänse blümchen", "roses"),
        taps=("stage3", "features"),
        layers=tuple(Dense(draw(a, b), draw(b)) for a, b in pairwise(widths)),
        link="softmax",
        temperature=1.2345678901234567,
        novelty=Novelty(draw(6), np.abs(draw(6)), draw(3, 6), np.sort(draw(5)), np.sort(draw(5)), 0.25, -3.5)
        if novelty
        else None,
    )


@pytest.fixture
def store(tmp_path: Path) -> VersionStore:
    return VersionStore(tmp_path / "models")


@pytest.fixture
def publish(store: VersionStore) -> Callable[..., Manifest]:
    """Publish a small head as the next version; keyword arguments replace fields of the draft."""

    def publish(job_id: str, model: str = "flowers", **fields: Any) -> Manifest:
        return store.publish(model, small_head(), replace(DRAFT, job_id=job_id, **fields), {"C": 0.1})

    return publish
