"""What was tuned is a backbone: it has a digest of its own, and its build gives the module's features."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from tests.tuning.small import CPU, OPTIONS, SmallBackbone, images_in, lesson, pictures_of
from tlserve.core.errors import BackboneProblem, BadImage, StoreUnavailable, TooFewClasses
from tlserve.plugin_api import Backbone, TrainableModule
from tlserve.plugin_host import make_build
from tlserve.runtime import BackboneSession, BuildSpec, choose_device
from tlserve.tuning import TunedBackbone, fine_tune, tune


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> TunedBackbone:
    backbone = SmallBackbone()
    found = tune(backbone.torch_module(), lesson(), OPTIONS, tmp_path_factory.mktemp("work"), device=CPU)
    return TunedBackbone(backbone.info, found)


def test_its_build_gives_the_features_of_the_tuned_module(tmp_path: Path) -> None:
    images = images_in(tmp_path, 150)
    done = fine_tune(SmallBackbone(), images, dataclasses.replace(OPTIONS, epochs=8), tmp_path / "work")
    assert done.report.best_epoch > 0
    device = choose_device("cpu")
    session = BackboneSession.open(make_build(done.backbone, "tests", tmp_path / "builds", device), device)
    pixels = pictures_of([image.path.read_bytes() for image in images]).pixels(range(5), [0] * 5)
    rows = session.rows(pixels)
    pictures = torch.from_numpy((pixels.astype(np.float32) - 127.5) / 60).permute(0, 3, 1, 2)
    with torch.no_grad():
        taps = done.tuned.trainable.module(pictures)
        untouched = SmallBackbone().torch_module().module(pictures)
    expected = torch.cat([taps["stage1"].mean((2, 3)), taps["features"]], dim=1).numpy()
    assert np.allclose(rows, expected, atol=1e-4)
    assert not np.allclose(rows[:, 8:], untouched["features"].numpy(), atol=1e-2)


def test_it_declares_what_it_is(tuned: TunedBackbone) -> None:
    assert isinstance(tuned, Backbone)
    parent = SmallBackbone().info
    assert tuned.info.name == "small, tuned"
    assert tuned.info.weights_origin == "fine-tuned from drawn at random on 120 images"
    assert tuned.info.weights_sha256 != parent.weights_sha256
    assert (tuned.info.image, tuned.info.taps, tuned.info.licence) == (
        parent.image,
        parent.taps,
        parent.licence,
    )
    digests = {BuildSpec.of(info, "tests").digest for info in (tuned.info, parent)}
    assert len(digests) == 2


def test_equal_weights_have_one_digest_and_others_another(tmp_path: Path) -> None:
    backbone = SmallBackbone()
    runs = [
        tune(
            backbone.torch_module(),
            lesson(),
            dataclasses.replace(OPTIONS, seed=seed),
            tmp_path / name,
            device=CPU,
        )
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    one, same, other = (TunedBackbone(backbone.info, run).info.weights_sha256 for run in runs)
    assert one == same != other


def test_tuned_again_it_is_not_called_tuned_twice(tuned: TunedBackbone, tmp_path: Path) -> None:
    found = tune(SmallBackbone().torch_module(), lesson(), OPTIONS, tmp_path, device=CPU)
    assert TunedBackbone(tuned.info, found).info.name == "small, tuned"


def test_its_weights_can_be_saved_and_put_back(tuned: TunedBackbone, tmp_path: Path) -> None:
    state = load_file(tuned.save(tmp_path))
    module = SmallBackbone().torch_module().module
    module.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    assert set(state) == set(module.state_dict())


def test_the_report_says_in_words_and_in_numbers_what_was_done(tmp_path: Path) -> None:
    images = images_in(tmp_path)
    done = fine_tune(SmallBackbone(), images, OPTIONS, tmp_path / "work")
    report = json.loads(json.dumps(dataclasses.asdict(done.report)))
    assert report["reason"].startswith("the last 2 blocks of 3 learnt")
    assert [epoch["epoch"] for epoch in report["epochs"]] == [0, 1, 2, 3, 4]
    assert report["n_images"] + report["n_validation"] == len(images)
    assert len(done.validation_digests) == report["n_validation"] == 6
    assert set(done.validation_digests) < {image.digest for image in images}
    assert done.labels == ("plain", "tinted")
    assert report["cache_bytes"] == (tmp_path / "work" / "activations.slots").stat().st_size
    assert (tmp_path / "work" / "weights.safetensors").is_file()


def test_an_image_that_is_gone_or_spoilt_is_named(tmp_path: Path) -> None:
    images = images_in(tmp_path)
    images[7].path.write_bytes(b"not a picture any more")
    with pytest.raises(BadImage):
        fine_tune(SmallBackbone(), images, OPTIONS, tmp_path / "a")
    images[7].path.unlink()
    with pytest.raises(StoreUnavailable, match=images[7].path.name):
        fine_tune(SmallBackbone(), images, OPTIONS, tmp_path / "b")


def test_one_class_is_not_enough(tmp_path: Path) -> None:
    images = [image for image in images_in(tmp_path) if image.label == "plain"]
    with pytest.raises(TooFewClasses):
        fine_tune(SmallBackbone(), images, OPTIONS, tmp_path / "work")


def test_a_plugin_that_fails_is_named(tmp_path: Path) -> None:
    class Failing(SmallBackbone):
        def torch_module(self) -> TrainableModule:
            raise RuntimeError("no such weights")

    with pytest.raises(BackboneProblem, match=r"small.*no such weights"):
        fine_tune(Failing(), images_in(tmp_path), OPTIONS, tmp_path / "work")
