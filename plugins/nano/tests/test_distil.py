"""How the weights are made: views and targets that belong together, and a run that can be interrupted."""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from distil.learning import Lesson, learn
from distil.pictures import NO_CLASS, Pictures, draw_pictures, load_pictures
from distil.recipe import Recipe
from distil.student import Opinion
from distil.teacher import MIRRORED, Targets, Teacher, ask_teacher, over_places
from distil.views import look, view_places
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.torch import save_file
from tlserve_nano.network import NanoNet, network_with
from tlserve_nano.storage import read_weights, write_weights

N_PHOTOS, N_DRAWN, WIDTH = 12, 4, 8
SMALL = dataclasses.replace(
    Recipe(), stages=((32, 1), (48, 1)), n_views=2, n_drawn=N_DRAWN, batch=4, warmup_epochs=0.5
)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve noisy photos in three classes."""
    path = tmp_path_factory.mktemp("archive") / "photos.tar"
    with tarfile.open(path, "w") as tar:
        for index in range(N_PHOTOS):
            file = io.BytesIO()
            pixels = np.random.default_rng(index).integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(file, "JPEG")
            member = tarfile.TarInfo(f"n{index % 3}/photo_{index}.JPEG")
            member.size = len(file.getvalue())
            tar.addfile(member, io.BytesIO(file.getvalue()))
    return path


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    """One convolution of stride 8 on 64 pixels, and its description."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.onnx"
    kernel = np.random.default_rng(0).normal(size=(WIDTH, 3, 8, 8)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input", "kernel"], ["answers"], strides=[8, 8]),
            helper.make_node("Abs", ["answers"], ["map"]),
            helper.make_node("GlobalAveragePool", ["map"], ["features"]),
        ],
        "teacher",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 64, 64])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", WIDTH, 1, 1])],
        [numpy_helper.from_array(kernel, "kernel")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    image = {"height": 64, "width": 64, "mean": [127.5] * 3, "std": [127.5] * 3}
    path.with_suffix(".json").write_text(json.dumps({"image": image}))
    return Teacher(path, "map", threads=1)


@pytest.fixture
def pictures(archive: Path, tmp_path: Path) -> Pictures:
    return load_pictures(archive, tmp_path, N_DRAWN, seed=1)


@pytest.fixture
def lesson(pictures: Pictures, teacher: Teacher, tmp_path: Path) -> Lesson:
    places = view_places(len(pictures.labels), SMALL.n_views, seed=1)
    targets = ask_teacher(teacher, pictures.pixels, places, tmp_path)
    classifier = tmp_path / "classifier.safetensors"
    torch.manual_seed(0)
    save_file({"last.weight": torch.randn(5, WIDTH), "last.bias": torch.randn(5)}, classifier)
    return Lesson(pictures, places, targets, Opinion(classifier, targets))


def test_photos_come_first_and_drawn_pictures_have_no_class(pictures: Pictures) -> None:
    assert pictures.pixels.shape == (N_PHOTOS + N_DRAWN, 64, 64, 3)
    assert pictures.n_classes == 3
    assert sorted(pictures.labels[:N_PHOTOS].tolist()) == [0] * 4 + [1] * 4 + [2] * 4
    assert (pictures.labels[N_PHOTOS:] == NO_CLASS).all()


def test_drawn_pictures_differ_and_repeat_with_the_seed() -> None:
    drawn = draw_pictures(6, seed=3)
    assert len({picture.tobytes() for picture in drawn}) == 6
    np.testing.assert_array_equal(drawn, draw_pictures(6, seed=3))


def test_views_begin_with_the_whole_picture_and_stay_inside_it() -> None:
    places = view_places(500, 3, seed=1)
    np.testing.assert_array_equal(places[0], np.tile([1, 1, 0, 0], (500, 1)))
    half, centre = places[..., :2], places[..., 2:]
    assert (np.abs(centre) + half <= 1 + 1e-6).all()
    assert (half[1:, :, 0] * half[1:, :, 1]).min() > 0.3


def test_looking_at_the_whole_gives_the_picture_and_a_negative_width_its_mirror_image() -> None:
    pictures = torch.rand(2, 3, 16, 16)
    whole = torch.tensor([[1.0, 1.0, 0.0, 0.0]] * 2)
    torch.testing.assert_close(look(pictures, whole, 16), pictures)
    mirrored = look(pictures, whole * torch.tensor([-1.0, 1.0, 1.0, 1.0]), 16)
    torch.testing.assert_close(mirrored, pictures.flip(3))


def test_the_places_of_a_mirrored_map_are_the_mirrored_places() -> None:
    maps = torch.rand(3, WIDTH, 7, 7)
    torch.testing.assert_close(over_places(maps.flip(3)), over_places(maps)[:, list(MIRRORED)])


def test_the_teacher_describes_the_very_crop_of_each_view(
    lesson: Lesson, teacher: Teacher, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    again.mkdir()
    only_second = ask_teacher(teacher, lesson.pictures.pixels, lesson.places[1:], again)
    np.testing.assert_allclose(only_second.rows[0], lesson.targets.rows[1], rtol=2e-3)
    assert np.abs(only_second.rows[0] - lesson.targets.rows[0]).max() > 0.05


def test_an_interrupted_teacher_goes_on_where_it_stopped(
    lesson: Lesson, teacher: Teacher, tmp_path: Path
) -> None:
    """What is already written stays, even if it is wrong: so it was not asked again."""
    resumed = tmp_path / "resumed"
    resumed.mkdir()
    marked = np.array(lesson.targets.rows)
    marked[0] = 7
    np.save(resumed / "targets.part.npy", marked)
    np.save(resumed / "targets.count.npy", np.array(1))
    targets = ask_teacher(teacher, lesson.pictures.pixels, lesson.places, resumed)
    assert (targets.rows[0] == 7).all()
    np.testing.assert_array_equal(targets.rows[1], lesson.targets.rows[1])


def test_an_unknown_tensor_of_the_teacher_is_named(lesson: Lesson, teacher: Teacher, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="no tensor 'nothing'"):
        ask_teacher(
            dataclasses.replace(teacher, tensor="nothing"), lesson.pictures.pixels, lesson.places, empty
        )


def test_the_opinion_on_a_standardised_description_is_the_classifier_on_the_raw_one(lesson: Lesson) -> None:
    raw = torch.from_numpy(np.asarray(lesson.targets.rows[0, :, 0], dtype=np.float32))
    standardised = (raw - torch.from_numpy(lesson.targets.mean)) / torch.from_numpy(lesson.targets.std)
    torch.manual_seed(0)
    weight, bias = torch.randn(5, WIDTH), torch.randn(5)
    torch.testing.assert_close(lesson.opinion(standardised), raw @ weight.T + bias, rtol=1e-4, atol=1e-4)


def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(
    lesson: Lesson, tmp_path: Path
) -> None:
    ended: list[dict[str, torch.Tensor]] = []
    for name, stops in (("whole", (SMALL.epochs,)), ("halves", (1, SMALL.epochs))):
        cache = tmp_path / name
        cache.mkdir()
        for stop in stops:
            student = learn(lesson, SMALL, cache, last_epoch=stop)
        ended.append({key: tensor.clone() for key, tensor in student.state_dict().items()})
    for key, tensor in ended[0].items():
        torch.testing.assert_close(tensor, ended[1][key], msg=key)


def test_learning_changes_every_layer(lesson: Lesson, tmp_path: Path) -> None:
    torch.manual_seed(SMALL.seed)
    before = NanoNet().state_dict()
    after = learn(lesson, SMALL, tmp_path).network.state_dict()
    same = [name for name, tensor in before.items() if name.endswith("weight") and tensor.equal(after[name])]
    assert not same


def test_the_rate_rises_then_falls_to_zero() -> None:
    recipe = Recipe()
    rates = [recipe.rate(epoch) for epoch in np.linspace(0, recipe.epochs, 200)]
    assert max(rates) == pytest.approx(recipe.peak_rate, rel=0.01)
    assert rates[0] < 0.05 * recipe.peak_rate
    assert rates[-1] == pytest.approx(0, abs=1e-6)
    assert [recipe.side(0), recipe.side(recipe.epochs - 1)] == [recipe.stages[0][0], recipe.stages[-1][0]]


def test_stored_weights_are_within_half_a_step_of_the_networks(tmp_path: Path) -> None:
    network = NanoNet()
    write_weights(network, tmp_path / "weights.safetensors")
    read = read_weights((tmp_path / "weights.safetensors").read_bytes())
    for name, tensor in network.state_dict().items():
        if tensor.ndim == 4:
            step = tensor.abs().amax(dim=(1, 2, 3), keepdim=True) / 127
            assert ((read[name] - tensor).abs() <= 0.5001 * step).all(), name
        elif not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(read[name], tensor)


def test_what_is_stored_is_stored_unchanged_again(tmp_path: Path) -> None:
    write_weights(NanoNet(), tmp_path / "first")
    write_weights(network_with((tmp_path / "first").read_bytes()), tmp_path / "second")
    first, second = (read_weights((tmp_path / name).read_bytes()) for name in ("first", "second"))
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=1e-6, atol=0)


def test_targets_are_standardised_by_the_whole_pictures(lesson: Lesson) -> None:
    rows = np.arange(N_PHOTOS + N_DRAWN)
    whole = lesson.targets.of(np.zeros_like(rows), rows)[:, 0]
    torch.testing.assert_close(whole.mean(dim=0), torch.zeros(WIDTH), atol=0.02, rtol=0)
    assert isinstance(lesson.targets, Targets)
