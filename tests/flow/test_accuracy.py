"""The head that tlserve trains is as good as scikit-learn's on the same rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tlserve.app import train_once
from tlserve.core.types import Split
from tlserve.features import FeatureStore
from tlserve.ingest import Catalog, ScanRules, reconcile
from tlserve.release import VersionStore
from tlserve.release.layout import StateLayout
from tlserve.runtime import read_build_spec
from tlserve.settings import load_settings


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_flowers_on_mobilenet_are_as_accurate_as_scikit_learn_with_its_best_c(
    shared: Callable[[str], Path], tmp_path: Path
) -> None:
    flowers = shared("datasets/flowers")
    backbone = f"onnx:{shared('backbones/mobilenet_v2_imagenet.onnx')}"
    settings = load_settings({"watch": flowers.parent, "state": tmp_path / "state", "backbone": backbone})
    outcome = train_once(settings, flowers)
    assert outcome.done.outcome == "published", outcome.done.reason

    layout = StateLayout(tmp_path / "state")
    manifest = VersionStore(layout.models).manifest("flowers", 1)
    spec = read_build_spec(layout.backbones / manifest.build)
    with Catalog(layout.catalog) as catalog:
        snapshot = reconcile(catalog, "flowers", flowers, ScanRules())
    assert snapshot.files_opened == 0
    with FeatureStore(layout.features(manifest.build), row_width=spec.row_width) as store:
        sides = {}
        for side in Split:
            images = snapshot.on(side)
            rows = store.read([image.digest for image in images], spec.columns(("features",)))
            sides[side] = rows, np.array([image.label for image in images])

    def accuracy(c: float) -> float:
        rival = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=2000))
        rival.fit(*sides[Split.TRAIN])
        return float(rival.score(*sides[Split.HELD_OUT]))

    best = max(accuracy(c) for c in (3e-4, 1e-3, 3e-3, 1e-2))
    assert manifest.accuracy is not None
    print(f"held out: tlserve {manifest.accuracy:.4f}, scikit-learn with its best C {best:.4f}")
    assert manifest.accuracy >= best - 0.005
    assert manifest.accuracy >= 0.87
