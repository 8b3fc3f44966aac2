"""Exported graphs on builds in 8-bit and 16-bit numbers: plain ONNX Runtime gives what the pool gives."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.release.conftest import DRAFT
from tests.support_build import tiny_build
from tlserve.core.errors import CorruptState
from tlserve.core.head import Dense, Head, apply
from tlserve.core.precision import Precision
from tlserve.core.types import Pixels
from tlserve.plugin_host import PluginHost, make_build, reduce_build
from tlserve.release import Version, VersionStore
from tlserve.release.export import export_graph
from tlserve.runtime import REFERENCE_FILE, BackboneSession, choose_device, read_build_spec, reference_pixels

CPU = choose_device("cpu")
REDUCED = [Precision.INT8, Precision.FP16]


def a_version(store: VersionStore, build: Path, taps: tuple[str, ...]) -> Version:
    """Of a random head on these taps."""
    spec, draw = read_build_spec(build), np.random.default_rng(3)
    width = sum(tap.width for tap in spec.taps if tap.name in taps)
    layers = tuple(
        Dense(draw.normal(0, 0.3, (a, b)).astype(np.float32), draw.normal(size=b).astype(np.float32))
        for a, b in pairwise([width, 7, 3])
    )
    head = Head(("a", "b", "c"), taps, layers, link="softmax", temperature=0.8)
    manifest = store.publish("flowers", head, replace(DRAFT, build=spec.digest), {})
    return store.load("flowers", manifest.version)


def assert_equal_outside(version: Version, build: Path, out: Path, pixels: Pixels) -> None:
    """The exported file in a bare session, against the build's session and the head."""
    export_graph(version, build, out)
    session = BackboneSession.open(build, CPU, threads=1)
    features = session.rows(pixels)[:, session.spec.columns(version.head.taps)]
    bare = ort.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    found, probabilities = bare.run(["features", "probabilities"], {"pixels": pixels})
    assert np.abs(found - features).max() <= 1e-5 * np.abs(features).max()
    np.testing.assert_allclose(probabilities, apply(version.head, features), atol=1e-5)
    alone, _ = bare.run(["features", "probabilities"], {"pixels": pixels[:1]})
    np.testing.assert_allclose(alone, found[:1], atol=1e-5 * np.abs(features).max())


@pytest.mark.parametrize("taps", [("features",), ("early", "features"), ("early",)])
@pytest.mark.parametrize("precision", REDUCED)
def test_the_exported_graph_of_a_reduced_build_gives_what_is_served(
    precision: Precision, taps: tuple[str, ...], store: VersionStore, tmp_path: Path
) -> None:
    plain = tiny_build(tmp_path / "plain")
    pixels = reference_pixels(read_build_spec(plain).image)
    build = reduce_build(plain, precision, pixels, CPU)
    assert_equal_outside(a_version(store, build, taps), build, tmp_path / "whole.onnx", pixels)


@pytest.mark.parametrize("precision", REDUCED)
def test_nano_in_fewer_bits_leaves_as_one_standard_graph(
    precision: Precision, store: VersionStore, tmp_path: Path
) -> None:
    plain = make_build(PluginHost().load("nano"), "nano", tmp_path / "backbones", CPU)
    pixels = reference_pixels(read_build_spec(plain).image)
    build = reduce_build(plain, precision, pixels, CPU)
    out = tmp_path / "whole.onnx"
    assert_equal_outside(a_version(store, build, ("features",)), build, out, pixels)
    model = onnx.load(str(out))
    assert {one.domain for one in model.opset_import} == {""}
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}


def test_a_reduced_graph_may_differ_from_its_reference_rows_as_far_as_rounding_goes(
    store: VersionStore, tmp_path: Path
) -> None:
    plain = tiny_build(tmp_path / "plain")
    build = reduce_build(plain, Precision.INT8, reference_pixels(read_build_spec(plain).image), CPU)
    version, rows = a_version(store, build, ("early", "features")), np.load(build / REFERENCE_FILE)
    np.save(build / REFERENCE_FILE, rows * np.where(np.arange(24) < 8, 1, 1.04).astype(np.float32))
    export_graph(version, build, tmp_path / "whole.onnx")
    np.save(build / REFERENCE_FILE, rows * np.where(np.arange(24) < 8, 1.04, 1).astype(np.float32))
    with pytest.raises(CorruptState, match=r"away from .* for tap 'early'"):
        export_graph(version, build, tmp_path / "whole.onnx")
