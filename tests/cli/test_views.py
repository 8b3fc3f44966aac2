"""`tlserve views`: the sheet that is drawn, and what is said where there is nothing to draw."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tests.cli.conftest import run
from tlserve.core.augmentation import POLICIES, policy
from tlserve.core.view_steps import KINDS
from tlserve.images import ImageDecoder, ViewMaker
from tlserve.plugin_api import ImageSpec

SIDE = 112
SPEC = ImageSpec(SIDE, SIDE, 128, mean=(0, 0, 0), std=(1, 1, 1))
Picture = npt.NDArray[np.uint8]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """Colours that change from pixel to pixel, so that no two views look alike."""
    across, down = np.meshgrid(np.arange(200), np.arange(160))
    grain = np.random.default_rng(0).integers(0, 60, (160, 200, 3))
    pixels = np.stack([across, down, 200 - across], axis=-1) + grain
    path = tmp_path / "a [photo].png"
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
    return path


def drawn(*arguments: str | Path, out: Path) -> Picture:
    done = run("views", *arguments, "--backbone-size", str(SIDE), "--out", out)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == f"{out}\n"
    return np.asarray(Image.open(out).convert("RGB"))


def how_often(picture: Picture, sheet: Picture) -> int:
    """At how many places of the sheet this picture stands, pixel for pixel."""
    windows = np.lib.stride_tricks.sliding_window_view(sheet, picture.shape)[:, :, 0]
    corner = (windows[:, :, 0, :6] == picture[0, :6]).all(axis=(2, 3))
    return sum(np.array_equal(windows[row, column], picture) for row, column in np.argwhere(corner))


def learnt(file: Path, spec: str, n_views: int) -> list[Picture]:
    """What learning sees of a file."""
    data = file.read_bytes()
    way = policy(spec)
    return ViewMaker(SPEC, way).views(data, hashlib.sha256(data).hexdigest(), list(way.indices(n_views)))


def test_a_sheet_shows_the_very_views_that_learning_sees(photo: Path, tmp_path: Path) -> None:
    sheet = drawn(photo, "--augment", "standard", "--views", "3", out=tmp_path / "sheet.png")
    expected = [ImageDecoder(SPEC).decode(photo.read_bytes()), *learnt(photo, "standard", 3)]
    assert [how_often(picture, sheet) for picture in expected] == [1, 1, 1, 1]
    assert how_often(learnt(photo, "standard", 4)[3], sheet) == 0


def test_without_a_policy_all_of_them_are_shown_to_choose_from(photo: Path, tmp_path: Path) -> None:
    sheet = drawn(photo, "--views", "2", out=tmp_path / "sheet.png")
    assert how_often(ImageDecoder(SPEC).decode(photo.read_bytes()), sheet) == 3
    for name in ("light", "standard", "heavy"):
        assert how_often(learnt(photo, name, 2)[1], sheet) == 1


def test_operations_are_shown_each_by_itself(photo: Path, tmp_path: Path) -> None:
    arguments = (photo, "--augment", "vertical_flip,rotate=30,light", "--each", "--views", "2")
    sheet = drawn(*arguments, out=tmp_path / "sheet.png")
    for alone in ("vertical_flip", "rotate=30", *POLICIES["light"]):
        for picture in learnt(photo, alone, 2):
            assert how_often(picture, sheet) >= 1
    assert how_often(learnt(photo, "vertical_flip,rotate=30", 2)[1], sheet) == 0
    everything = drawn(photo, "--each", "--views", "1", out=tmp_path / "all.png")
    for kind in KINDS:
        assert how_often(learnt(photo, kind, 1)[0], everything) >= 1


def test_several_files_stand_below_one_another_and_a_bad_one_is_named(photo: Path, tmp_path: Path) -> None:
    other, bad, out = tmp_path / "other.png", tmp_path / "bad.jpg", tmp_path / "sheet.png"
    Image.open(photo).rotate(180).save(other)
    bad.write_text("no picture")
    options = ("--augment", "light", "--backbone-size", str(SIDE), "--out", out)
    done = run("views", photo, bad, other, *options)
    assert done.exit_code == 1
    assert done.stdout == f"{out}\n"
    assert done.stderr.startswith(f"tlserve: {bad}: not an image")
    sheet = np.asarray(Image.open(out))
    assert [how_often(learnt(file, "light", 2)[1], sheet) for file in (photo, other)] == [1, 1]


def test_nothing_is_written_where_no_file_is_an_image(tmp_path: Path) -> None:
    bad, out = tmp_path / "bad.jpg", tmp_path / "sheet.png"
    bad.write_bytes(b"")
    done = run("views", bad, "--out", out)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == f"tlserve: {bad}: empty file\n"
    assert not out.exists()


def test_without_a_place_the_sheet_is_a_temporary_file(photo: Path, tmp_path: Path) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    code = "import sys, tempfile; tempfile.tempdir = sys.argv.pop(1); from tlserve.cli import app; app()"
    command = [sys.executable, "-c", code, str(place), "views", str(photo), "--augment", "flip"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (file,) = place.iterdir()
    assert done.stdout == f"{file}\n"
    assert file.read_bytes().startswith(b"\x89PNG")
    assert done.stderr == 'In a model.toml: augment = "flip"\n'


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name an image file"),
        (("gone.jpg",), "gone.jpg is not there"),
        (("",), "is a folder"),
        (("a [photo].png", "--augment", "spin"), "--augment: 'spin' is not known"),
        (("a [photo].png", "--augment", "rotate=500"), "--augment: the strength of 'rotate'"),
        (("a [photo].png", "--augment", "none", "--each"), "--each: 'none' has no operations"),
        (("a [photo].png", "--out", "sheet.jpg"), "--out: the sheet is a PNG; write 'sheet.png'"),
        (("a [photo].png", "--each", "--views", "64"), "at most 600"),
    ],
)
@pytest.mark.usefixtures("photo")
def test_wrong_use_is_one_line(
    arguments: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("views", *arguments)
    assert done.exit_code == 2
    assert words in done.stderr
    assert done.stderr.startswith("tlserve: ")
    assert len(done.stderr.splitlines()) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["a [photo].png"]


def test_the_list_names_every_operation_and_policy() -> None:
    lines = run("views", "--list").stdout.splitlines()
    first = [line.split(maxsplit=1)[0] for line in lines if line]
    assert first == ["operation", *KINDS, "policy", *POLICIES]
    rotate = next(line for line in lines if line.startswith("rotate"))
    assert rotate.split(maxsplit=5)[1:] == ["15", "up", "to", "180", f"1  {KINDS['rotate'].says}"]


def test_neither_torch_nor_onnx_is_needed(photo: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from tlserve.cli import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'onnxruntime', 'onnx', 'sklearn', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    command = [sys.executable, "-c", code, "views", str(photo), "--out", str(tmp_path / "sheet.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_views_of_a_real_photo_are_drawn(shared: Callable[[str], Path], tmp_path: Path) -> None:
    photo = min(shared("datasets/flowers/tulips").glob("*.jpg"))
    sheet = drawn(photo, "--augment", "heavy", "--views", "5", out=tmp_path / "sheet.png")
    assert [how_often(view, sheet) for view in learnt(photo, "heavy", 5)] == [1] * 5
