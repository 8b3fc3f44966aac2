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
from tlserve.core.head import Dense, Head, Link, Novelty, Projection, apply, centroid_distance, novelty_scores
from tlserve.release import Manifest, Version, VersionStore
from tlserve.release.export import export_graph, write_triton
from tlserve.runtime import REFERENCE_FILE, read_build_spec, reference_pixels
from tlserve.training import train_softmax

WIDTHS = {"early": 8, "features": 16}


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_build(tmp_path_factory.mktemp("build"))


def head_for(
    taps: Sequence[str],
    *,
    labels: Sequence[str] = ("a", "b", "ü"),
    n_layers: int = 1,
    link: Link = "softmax",
    novelty: Novelty | None = None,
) -> Head:
    random = np.random.default_rng(3)
    n_features = sum(WIDTHS[tap] for tap in taps)
    widths = [n_features, 5, len(labels)] if n_layers == 2 else [n_features, len(labels)]
    layers = tuple(
        Dense(random.normal(0, 3, (a, b)).astype(np.float32), random.normal(size=b).astype(np.float32))
        for a, b in pairwise(widths)
    )
    return Head(tuple(labels), tuple(taps), layers, link=link, temperature=0.73, novelty=novelty)


def novelty_for(n_features: int, *, doubt_weight: float = 0.0, halved: bool = True) -> Novelty:
    """A block over the whole range of distances, so that no reference picture falls off its ends."""
    random = np.random.default_rng(4)
    centroids = random.normal(size=(5, n_features))
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    return Novelty(
        mean=random.normal(size=n_features).astype(np.float32),
        scale=random.uniform(0.5, 2, n_features).astype(np.float32),
        centroids=centroids.astype(np.float16 if halved else np.float32).astype(np.float32),
        distances=np.sort(random.uniform(0, 2, 40)).astype(np.float32),
        ranks=np.linspace(0, 1, 40, dtype=np.float32),
        doubt_weight=doubt_weight,
        sure_at=4.0,
    )


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


def run(path: Path, pixels: Any) -> tuple[Any, Any, Any]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        ("pixels", "tensor(uint8)", ["N", 32, 32, 3])
    ]
    names = ["probabilities", "features", "novelty"]
    assert [o.name for o in session.get_outputs()] == names
    assert session.get_outputs()[2].shape == ["N"]
    probabilities, features, novelty = session.run(names, {"pixels": pixels})
    return probabilities, features, novelty


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
    probabilities, features, novelty = run(out, reference_pixels(spec.image))
    rows = np.load(shelf.build / REFERENCE_FILE)[:, spec.columns(taps)]
    np.testing.assert_allclose(features, rows, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(probabilities, apply(version.head, rows), atol=1e-4)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(novelty, np.zeros(len(rows)))
    one, _, _ = run(out, reference_pixels(spec.image)[:1])
    np.testing.assert_allclose(one, probabilities[:1], atol=1e-6)


@pytest.mark.parametrize("halved", [True, False])
@pytest.mark.parametrize("doubt_weight", [0.0, 0.05])
@pytest.mark.parametrize("taps", [["features"], ["features", "early"]])
def test_the_graph_gives_the_novelty_of_the_head(
    shelf: Shelf, tmp_path: Path, taps: list[str], doubt_weight: float, halved: bool
) -> None:
    block = novelty_for(sum(WIDTHS[tap] for tap in taps), doubt_weight=doubt_weight, halved=halved)
    head = head_for(taps, n_layers=2, link="sigmoid", novelty=block)
    out = tmp_path / "whole.onnx"
    export_graph(shelf.version(head), shelf.build, out)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), np.uint8)
    pixels[1] = 0
    _, features, novelty = run(out, pixels)
    np.testing.assert_allclose(novelty, novelty_scores(head, features), atol=1e-4)
    assert 0 < novelty.min() < novelty.max() < 1


@pytest.mark.parametrize("opset", [7, 13, 18])
def test_novelty_needs_no_newer_operators_than_a_backbone(
    store: VersionStore, tmp_path: Path, opset: int
) -> None:
    build = tiny_build(tmp_path / "build")
    backbone = onnx.load(str(build / "backbone.onnx"))
    backbone.opset_import[0].version = opset
    onnx.save(backbone, str(build / "backbone.onnx"))
    head = head_for(["early", "features"], novelty=novelty_for(24, doubt_weight=0.05))
    export_graph(Shelf(store, build).version(head), build, tmp_path / "whole.onnx")
    _, features, novelty = run(tmp_path / "whole.onnx", reference_pixels(read_build_spec(build).image))
    np.testing.assert_allclose(novelty, novelty_scores(head, features), atol=1e-4)


def test_the_graph_gives_the_novelty_of_a_trained_head(shelf: Shelf, tmp_path: Path) -> None:
    """Rows that lie close together: the curve is as steep as training makes any."""
    export_graph(shelf.version(head_for(["features"])), shelf.build, tmp_path / "plain.onnx")
    random = np.random.default_rng(0)
    shades = random.integers(60, 200, (300, 1, 1, 3)) + random.integers(-9, 9, (300, 32, 32, 3))
    _, rows, _ = run(tmp_path / "plain.onnx", shades.astype(np.uint8))
    labels = np.where(shades.mean(axis=(1, 2))[:, 0] > 130, "red", "pale").tolist()
    head = train_softmax(rows[:200], labels[:200], ("features",), held_out_rows_for_novelty=rows[200:]).head
    assert head.novelty is not None and head.novelty.doubt_weight > 0
    export_graph(shelf.version(head, job_id="trained"), shelf.build, tmp_path / "whole.onnx")
    _, features, novelty = run(tmp_path / "whole.onnx", shades.astype(np.uint8))
    np.testing.assert_allclose(novelty, novelty_scores(head, features), atol=1e-4)
    assert novelty.std() > 0.1


def test_a_curve_of_an_older_release_that_jumps_can_be_exported(shelf: Shelf, tmp_path: Path) -> None:
    block = replace(novelty_for(16), distances=np.repeat(np.float32([0.1, 0.7]), 20))
    export_graph(shelf.version(head_for(["features"], novelty=block)), shelf.build, tmp_path / "whole.onnx")
    _, features, novelty = run(tmp_path / "whole.onnx", reference_pixels(read_build_spec(shelf.build).image))
    far = np.abs(centroid_distance(block, features)[:, None] - [0.1, 0.7]).min(axis=1) > 1e-5
    expected = novelty_scores(head_for(["features"], novelty=block), features)
    np.testing.assert_allclose(novelty[far], expected[far], atol=1e-4)
    assert far.any()


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
    probabilities, _, _ = run(out, reference_pixels(spec.image))
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
    outputs = [(o.name, list(o.dims)) for o in config.output]
    assert outputs == [("probabilities", [3]), ("features", [16]), ("novelty", [1])]
    assert config.output[2].HasField("reshape"), "the graph gives one number for each image, not a column"
    assert list(config.output[2].reshape.shape) == []
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


def test_a_graph_without_the_output_that_the_configuration_names_is_written_anew(
    shelf: Shelf, tmp_path: Path
) -> None:
    """As releases before the third output left it."""
    version = shelf.version(head_for(["features"]))
    folder = write_triton([version], {shelf.digest: shelf.build}, tmp_path / "triton", live=1)
    model = onnx.load(str(folder / "1" / "model.onnx"))
    del model.graph.output[2]
    kept = {p.key: p.value for p in model.metadata_props if p.key != "outputs"}
    onnx.helper.set_model_props(model, kept)
    onnx.save(model, str(folder / "1" / "model.onnx"))
    write_triton([version], {shelf.digest: shelf.build}, tmp_path / "triton", live=1)
    written = onnx.load(str(folder / "1" / "model.onnx"))
    assert [output.name for output in written.graph.output] == ["probabilities", "features", "novelty"]


def test_a_label_with_a_line_break_stays_one_line(shelf: Shelf, tmp_path: Path) -> None:
    version = shelf.version(head_for(["features"], labels=["a\nb", "c", "d"]))
    folder = write_triton([version], {shelf.digest: shelf.build}, tmp_path, live=1)
    assert (folder / "labels.txt").read_text() == "a b\nc\nd\n"
