"""Each kind of head, trained for real: the exported graph and the stored file say what the head says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from tests.release.conftest import DRAFT
from tests.support_build import tiny_build
from tlserve.core.head import apply
from tlserve.core.plan import HeadKind
from tlserve.release import VersionStore
from tlserve.release.export import export_graph
from tlserve.runtime import BackboneSession, choose_device, read_build_spec
from tlserve.training import Examples, train

TAPS = ("early", "features")
COLOURS = {"dark": 60, "bright": 190, "grey": 128}


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_build(tmp_path_factory.mktemp("build"))


def pictures(n_each: int, seed: int) -> tuple[Any, list[str]]:
    """Noise about a grey: (n, 32, 32, 3) uint8 and labels."""
    random = np.random.default_rng(seed)
    pixels = [random.normal(mean, 40, (n_each, 32, 32, 3)) for mean in COLOURS.values()]
    labels = [name for name in COLOURS for _ in range(n_each)]
    return np.clip(np.concatenate(pixels), 0, 255).astype(np.uint8), labels


@pytest.mark.parametrize("kind", list(HeadKind))
def test_graph_and_file_say_what_the_head_says(
    store: VersionStore, build: Path, tmp_path: Path, kind: HeadKind
) -> None:
    session = BackboneSession.open(build, choose_device("cpu"), threads=1)
    pixels, labels = pictures(20, seed=0)
    columns = session.spec.columns(TAPS)
    trained = train(Examples.of(session.rows(pixels)[:, columns], labels), TAPS, kinds=[kind])
    draft = replace(DRAFT, job_id=kind.value, build=read_build_spec(build).digest)
    manifest = store.publish("greys", trained.head, draft, trained.report)
    version = store.load("greys", manifest.version)
    fresh, _ = pictures(5, seed=1)
    expected = apply(trained.head, session.rows(fresh)[:, columns])
    np.testing.assert_array_equal(apply(version.head, session.rows(fresh)[:, columns]), expected)
    export_graph(version, build, tmp_path / "model.onnx")
    graph = ort.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    (found,) = graph.run(["probabilities"], {"pixels": fresh})
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.ptp(expected, axis=0).min() > 0.2, "answers differ from picture to picture"
