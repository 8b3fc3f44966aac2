"""The exported graph against numpy, byte for byte again, and as a Triton repository."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.release.conftest import DRAFT
from tests.support_build import tiny_build
from tlserve.core.errors import CorruptState, StoreUnavailable
from tlserve.core.head import Dense, Head, Link, Projection, apply
from tlserve.release import Manifest, Version, VersionStore
from tlserve.release.export import export_graph, write_triton
from tlserve.runtime import REFERENCE_FILE, read_build_spec, reference_pixels

WIDTHS = {"early": 8, "features": 16}


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_build(tmp_path_factory.mktemp("build"))


def head_for(
    taps: Sequence[str], *, labels: Sequence[str] = ("a", "b", "ü"), n_layers: int = 1, link: Link = "softmax"
) -> Head:
    random = np.random.default_rng(3)
    n_features = sum(WIDTHS[tap] for tap in taps)
    widths = [n_features, 5, len(labels)] if n_layers == 2 else [n_features, len(labels)]
    layers = tuple(
        Dense(random.normal(0, 3, (a, b)).astype(np.float32), random.normal(size=b).astype(np.float32))
        for a, b in pairwise(widths)
    )
    return Head(tuple(labels), tuple(taps), layers, link=link, temperature=0.73)


class Shelf:
    """Versions of one model over one build."""

    def __init__(self, store: VersionStore, build: Path) -> None:
        self.store, self.build = store, build
        self.digest = read_build_spec(build).digest

    def version(self, head: Head, job_id: str = "job", digest: str | None = None) -> Version:
        draft = replace(DRAFT, job_id=job_id, build=digest or self.digest)
        manifest: Manifest = self.store.publish("flowers", head, draft, {})
        return self.store.load("flowers", manifest.version)


@pytest.fixture
def shelf(store: VersionStore, build: Path) -> Shelf:
    return Shelf(store, build)


def run(path: Path, pixels: Any) -> tuple[Any, Any]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        ("pixels", "tensor(uint8)", ["N", 32, 32, 3])
    ]
    assert [o.name for o in session.get_outputs()] == ["probabilities", "features"]
    probabilities, features = session.run(["probabilities", "features"], {"pixels": pixels})
    return probabilities, features


@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("taps", [["features"], ["early"], ["early", "features"], ["features", "early"]])
def test_the_graph_gives_what_the_head_gives(
    shelf: Shelf, tmp_path: Path, taps: list[str], n_layers: int, link: Link
) -> None:
    version = shelf.version(head_for(taps, n_layers=n_layers, link=link))
    out = tmp_path / "whole.onnx"
    export_graph(version, shelf.build, out)
    spec = read_build_spec(shelf.build)
    probabilities, features = run(out, reference_pixels(spec.image))
    rows = np.load(shelf.build / REFERENCE_FILE)[:, spec.columns(taps)]
    np.testing.assert_allclose(features, rows, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(probabilities, apply(version.head, rows), atol=1e-4)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    one, _ = run(out, reference_pixels(spec.image)[:1])
    np.testing.assert_allclose(one, probabilities[:1], atol=1e-6)


def test_a_projection_is_drawn_again_from_its_seed(shelf: Shelf, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    n_features = WIDTHS["features"]
    first = Projection(
        random.normal(size=n_features).astype(np.float32),
        np.full(n_features, 0.3, np.float32),
        seed=5,
        n_out=40,
    )
    last = Dense(random.normal(size=(40, 2)).astype(np.float32), np.zeros(2, np.float32))
    head = Head(("a", "b"), ("features",), (first, last))
    version = shelf.version(head)
    out = tmp_path / "whole.onnx"
    export_graph(version, shelf.build, out)
    spec = read_build_spec(shelf.build)
    probabilities, _ = run(out, reference_pixels(spec.image))
    rows = np.load(shelf.build / REFERENCE_FILE)[:, spec.columns(("features",))]
    np.testing.assert_allclose(probabilities, apply(head, rows), atol=1e-4)
    kept = shelf.store.load("flowers", 1).head.layers[0]
    assert isinstance(kept, Projection)
    np.testing.assert_array_equal(kept.weight, first.weight)


def test_the_same_version_gives_the_same_bytes(shelf: Shelf, tmp_path: Path) -> None:
    version = shelf.version(head_for(["features"]))
    export_graph(version, shelf.build, tmp_path / "one.onnx")
    export_graph(shelf.store.load("flowers", 1), shelf.build, tmp_path / "other.onnx")
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "other.onnx").read_bytes()


def test_the_file_says_what_it_is(shelf: Shelf, tmp_path: Path) -> None:
    version = shelf.version(head_for(["features", "early"]))
    export_graph(version, shelf.build, tmp_path / "whole.onnx")
    said = {p.key: p.value for p in onnx.load(str(tmp_path / "whole.onnx")).metadata_props}
    assert (said["model"], said["version"], said["build"]) == ("flowers", "1", shelf.digest)
    assert json.loads(said["labels"]) == ["a", "b", "ü"]
    assert json.loads(said["taps"]) == ["features", "early"]
    assert json.loads(said["image"])["height"] == 32
    assert said["head_sha256"] == version.manifest.head_sha256


def test_a_version_of_another_build_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    version = shelf.version(head_for(["features"]), digest="0" * 64)
    with pytest.raises(CorruptState, match="needs the build 000"):
        export_graph(version, shelf.build, tmp_path / "whole.onnx")


def test_a_head_that_does_not_fit_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    head = head_for(["features"])
    layer = Dense(head.layers[0].weight[:-1], head.layers[0].bias)
    version = shelf.version(replace(head, layers=(layer,)))
    with pytest.raises(CorruptState, match=r"reads 15 features, but .* gives 16"):
        export_graph(version, shelf.build, tmp_path / "whole.onnx")
    assert list(tmp_path.glob("*.onnx*")) == []


def test_a_build_whose_reference_does_not_come_out_is_refused(store: VersionStore, tmp_path: Path) -> None:
    build = tiny_build(tmp_path / "build")
    rows = np.load(build / REFERENCE_FILE)
    np.save(build / REFERENCE_FILE, rows * 1.1)
    version = Shelf(store, build).version(head_for(["features"]))
    with pytest.raises(CorruptState, match=r"features .* away"):
        export_graph(version, build, tmp_path / "whole.onnx")


def test_a_damaged_backbone_is_named(store: VersionStore, tmp_path: Path) -> None:
    build = tiny_build(tmp_path / "build")
    version = Shelf(store, build).version(head_for(["features"]))
    (build / "backbone.onnx").write_bytes(b"\x00damaged")
    with pytest.raises(CorruptState, match=r"backbone\.onnx is not a readable ONNX file"):
        export_graph(version, build, tmp_path / "whole.onnx")


def test_a_place_that_cannot_be_written_is_named(shelf: Shelf, tmp_path: Path) -> None:
    version = shelf.version(head_for(["features"]))
    with pytest.raises(StoreUnavailable, match=r"cannot write .*nowhere/whole\.onnx"):
        export_graph(version, shelf.build, tmp_path / "nowhere" / "whole.onnx")


# -- the Triton repository


def read_config(folder: Path) -> Any:
    """config.pbtxt as Triton's own message."""
    text_format = pytest.importorskip("google.protobuf.text_format")
    pb = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    return text_format.Parse((folder / "config.pbtxt").read_text(), pb.ModelConfig())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_triton_reads_the_repository(shelf: Shelf, tmp_path: Path) -> None:
    version = shelf.version(head_for(["features"]))
    folder = write_triton([version], {shelf.digest: shelf.build}, tmp_path / "triton", live=1)
    assert folder == tmp_path / "triton" / "flowers"
    assert names(folder) == ["1", "config.pbtxt", "labels.txt"]
    assert names(folder / "1") == ["model.onnx"]
    assert (folder / "labels.txt").read_text() == "a\nb\nü\n"
    config = read_config(folder)
    assert (config.name, config.platform, config.max_batch_size) == ("flowers", "onnxruntime_onnx", 32)
    assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [("pixels", 2, [32, 32, 3])]
    assert [(o.name, list(o.dims)) for o in config.output] == [("probabilities", [3]), ("features", [16])]
    assert config.output[0].label_filename == "labels.txt"
    assert list(config.version_policy.specific.versions) == [1]
    assert not any(path.is_symlink() or path.stat().st_nlink > 1 for path in folder.rglob("*.*"))


def test_the_repository_follows_live(shelf: Shelf, tmp_path: Path) -> None:
    versions = [shelf.version(head_for(["features"]), job_id=job) for job in "abc"]
    folders = {shelf.digest: shelf.build}
    folder = write_triton(versions[:1], folders, tmp_path, live=1)
    written = (folder / "1" / "model.onnx").stat().st_mtime_ns
    write_triton(versions[:2], folders, tmp_path, live=2, pinned=[1])
    assert list(read_config(folder).version_policy.specific.versions) == [1, 2]
    assert (folder / "1" / "model.onnx").stat().st_mtime_ns == written, "what is there is not written again"
    write_triton(versions[2:], folders, tmp_path, live=3)
    assert names(folder) == ["3", "config.pbtxt", "labels.txt"]
    assert list(read_config(folder).version_policy.specific.versions) == [3]


def test_a_pinned_version_of_another_shape_is_a_file_but_not_served(shelf: Shelf, tmp_path: Path) -> None:
    one = shelf.version(head_for(["features"]), job_id="a")
    other = shelf.version(head_for(["features"], labels=["a", "b", "c", "d"]), job_id="b")
    folder = write_triton([one, other], {shelf.digest: shelf.build}, tmp_path, live=2, pinned=[1])
    assert (folder / "1" / "model.onnx").is_file()
    assert list(read_config(folder).version_policy.specific.versions) == [2]


def test_a_graph_of_an_older_state_or_a_damaged_one_is_written_anew(shelf: Shelf, tmp_path: Path) -> None:
    version = shelf.version(head_for(["features"]))
    folder = write_triton([version], {shelf.digest: shelf.build}, tmp_path, live=1)
    good = (folder / "1" / "model.onnx").read_bytes()
    (folder / "1" / "model.onnx").write_bytes(good[: len(good) // 2])
    (folder / ".writing-crashed").mkdir()
    write_triton([version], {shelf.digest: shelf.build}, tmp_path, live=1)
    assert (folder / "1" / "model.onnx").read_bytes() == good
    assert names(folder) == ["1", "config.pbtxt", "labels.txt"]


def test_a_label_with_a_line_break_stays_one_line(shelf: Shelf, tmp_path: Path) -> None:
    version = shelf.version(head_for(["features"], labels=["a\nb", "c", "d"]))
    folder = write_triton([version], {shelf.digest: shelf.build}, tmp_path, live=1)
    assert (folder / "labels.txt").read_text() == "a b\nc\nd\n"
