"""The promise: pictures are dropped, a better model answers, and no request is lost in between."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import tritonclient.grpc as triton

from tests.flow.daemon_process import (
    DaemonProcess,
    ask,
    classes_of,
    copy_images,
    label_of,
    running,
    version_of,
    wait_until,
)
from tlserve.client import Client
from tlserve.core.errors import NotFound
from tlserve.features import FeatureStore
from tlserve.images import ImageDecoder
from tlserve.release import VersionStore
from tlserve.release.layout import StateLayout
from tlserve.runtime import read_build_spec

Shared = Callable[[str], Path]

FIRST = ("daisy", "dandelion", "roses")
PER_CLASS = 60


@dataclass
class Load:
    """Asks without a pause on threads of its own, and checks every answer against the version it names."""

    address: str
    model: str
    images: list[bytes]
    classes_by_version: dict[int, list[str]] = field(default_factory=dict)
    answered: int = 0
    failures: list[str] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(3)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        with triton.InferenceServerClient(self.address) as client:
            while not self._stop.is_set():
                for image in self.images:
                    try:
                        self._check(ask(client, self.model, image))
                        self.answered += 1
                    except Exception as exc:
                        self.failures.append(repr(exc))

    def _check(self, result: triton.InferResult) -> None:
        classes = classes_of(result)
        known = self.classes_by_version.setdefault(version_of(result), classes)
        assert classes == known, f"version {version_of(result)} answered with {classes} and with {known}"
        probabilities = result.as_numpy("probabilities")
        assert probabilities.shape == (1, len(classes))
        assert abs(probabilities.sum() - 1) < 1e-4
        assert label_of(result) == classes[int(probabilities.argmax())]


@pytest.fixture
def flowers(shared: Shared, tmp_path: Path, make_daemon: Callable[..., DaemonProcess]) -> DaemonProcess:
    """A daemon on MobileNetV2 whose watch root holds three flower classes."""
    source = shared("datasets/flowers")
    for label in FIRST:
        copy_images(source / label, tmp_path / "watch" / "flowers" / label, 0, PER_CLASS)
    return make_daemon(f"onnx:{shared('backbones/mobilenet_v2_imagenet.onnx')}")


def live_version(daemon: DaemonProcess, model: str) -> int | None:
    with Client(daemon.address) as client:
        try:
            return client.model(model).live
        except NotFound:
            return None


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_fourth_class_goes_live_under_load_and_no_request_fails(
    flowers: DaemonProcess, shared: Shared
) -> None:
    source = shared("datasets/flowers")
    unseen = [file.read_bytes() for label in FIRST for file in sorted((source / label).iterdir())[-3:]]
    tulips = [file.read_bytes() for file in sorted((source / "tulips").iterdir())[-8:]]
    with running(flowers):
        wait_until(lambda: live_version(flowers, "flowers") == 1, "three classes went live")
        with Load(flowers.address, "flowers", unseen) as load:
            wait_until(lambda: load.answered > 20, "the load is on")
            copy_images(source / "tulips", flowers.watch / "flowers" / "tulips", 0, PER_CLASS)
            wait_until(
                lambda: any("tulips" in names for names in [*load.classes_by_version.values()]),
                "tulips are answered",
            )
            after = load.answered
            wait_until(lambda: load.answered > after + 20, "the load goes on")
        assert load.failures == []
        assert load.classes_by_version[1] == sorted(FIRST)
        newest = max(load.classes_by_version)
        assert load.classes_by_version[newest] == sorted([*FIRST, "tulips"])

        with triton.InferenceServerClient(flowers.address) as client:
            answers = [label_of(ask(client, "flowers", image)) for image in tulips]
            assert answers.count("tulips") >= 6, answers
            # The old version can still be asked for, by number and by name.
            assert classes_of(ask(client, "flowers", tulips[0], "1")) == sorted(FIRST)
            # Also after a refinement, which takes the place of the fast version only.
            wait_until(lambda: is_refined(flowers, 4 * PER_CLASS), "the full recipe has spoken")
            assert version_of(ask(client, "flowers", tulips[0], "previous")) == 1

        rolled_back_holds(flowers, source)
        restarted_serves_the_same(flowers)


def is_refined(flowers: DaemonProcess, n_images: int) -> bool:
    """Whether the newest version is of so many images and of the full recipe, and nothing goes on."""
    with Client(flowers.address) as client:
        newest, model = client.versions("flowers")[-1], client.model("flowers")
        return newest.images == n_images and not newest.instant and model.phase in ("idle", "waiting")


def rolled_back_holds(flowers: DaemonProcess, source: Path) -> None:
    """A rollback answers at once, and the next drop does not undo it."""
    with Client(flowers.address) as client:
        before = client.versions("flowers")[-1].version
        assert client.rollback("flowers").version == 1
        assert client.model("flowers").promotion == "manual"
        copy_images(source / "tulips", flowers.watch / "flowers" / "tulips", PER_CLASS, PER_CLASS + 10)
        wait_until(lambda: is_refined(flowers, 4 * PER_CLASS + 10), "the drop was trained")
        states = {line.version: line.state for line in client.versions("flowers")}
        assert states[1] == "live"
        assert {states[number] for number in states if number > before} <= {"candidate", "held"}
        assert client.classify("flowers", [sorted((source / "tulips").iterdir())[0]])[0].version == 1


def restarted_serves_the_same(flowers: DaemonProcess) -> None:
    """After a restart the same version is live, and neither training nor a backbone pass made it so."""
    before = live_version(flowers, "flowers")
    with Client(flowers.address) as client:
        versions = [line.version for line in client.versions("flowers")]
    assert flowers.stop() == 0
    flowers.start()
    assert live_version(flowers, "flowers") == before
    wait_until(lambda: flowers.metric("tlserve_passes_total") >= 1, "the first look after a restart")
    assert flowers.metric("tlserve_backbone_images_total") == 0
    with Client(flowers.address) as client:
        assert [line.version for line in client.versions("flowers")] == versions


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_exported_graph_alone_gives_the_answers_of_the_daemon(
    flowers: DaemonProcess, shared: Shared
) -> None:
    layout = StateLayout(flowers.state)
    with running(flowers):
        wait_until(lambda: live_version(flowers, "flowers") == 1, "three classes went live")
        graph = layout.triton / "flowers" / "1" / "model.onnx"
        wait_until(graph.exists, "the graph was exported")
        image_files = sorted((flowers.watch / "flowers" / "daisy").iterdir())[:5]
        with triton.InferenceServerClient(flowers.address) as client:
            answers = [ask(client, "flowers", file.read_bytes()) for file in image_files]
        assert flowers.stop() == 0  # with its trainer, which has the rows open

    version = VersionStore(layout.models).load("flowers", 1)
    spec = read_build_spec(layout.backbones / version.manifest.build)
    decoder = ImageDecoder(spec.image)
    pixels = np.stack([decoder.decode(file.read_bytes()) for file in image_files])
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    probabilities, features = session.run(["probabilities", "features"], {"pixels": pixels})
    np.testing.assert_allclose(
        np.concatenate([a.as_numpy("probabilities") for a in answers]), probabilities, atol=1e-4
    )
    served = np.concatenate([a.as_numpy("features") for a in answers])
    np.testing.assert_allclose(served, features, rtol=1e-3, atol=1e-4)
    assert session.get_modelmeta().custom_metadata_map["labels"]

    # The cached row is the served features, to what float16 can hold.
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in image_files]
    with FeatureStore(layout.features(version.manifest.build), row_width=spec.row_width) as store:
        cached = store.read(digests, spec.columns(version.head.taps))
    np.testing.assert_allclose(served, cached, rtol=2**-10, atol=1e-3)
