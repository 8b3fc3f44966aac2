"""Thumbnails: small, upright, within the folder and the budget; a reason in place of what cannot be shown."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from tlserve.report.thumbnails import SIDE_PIXELS, Thumbnail, Thumbnails


def decoded(thumbnail: Thumbnail) -> Image.Image:
    assert thumbnail.uri is not None, thumbnail.reason
    kind, data = thumbnail.uri.split(",")
    assert kind == "data:image/jpeg;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert picture.size == (thumbnail.width, thumbnail.height)
    return picture


def test_the_long_side_shrinks_and_the_proportions_stay(tmp_path: Path) -> None:
    Image.new("RGB", (1600, 800), "green").save(tmp_path / "wide.jpg")
    thumbnail = Thumbnails(tmp_path).of("wide.jpg")
    assert (thumbnail.width, thumbnail.height) == (SIDE_PIXELS, SIDE_PIXELS // 2)
    red, green, blue = decoded(thumbnail).convert("RGB").getpixel((80, 40))  # type: ignore[misc]
    assert green > 100 > max(red, blue)


def test_a_small_picture_is_not_enlarged(tmp_path: Path) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "small.png")
    assert decoded(Thumbnails(tmp_path).of("small.png")).size == (20, 10)


def test_it_stands_upright_by_its_exif_orientation_and_carries_none(tmp_path: Path) -> None:
    lying = Image.new("RGB", (400, 200), "blue")
    lying.paste("red", (0, 0, 200, 200))
    exif = lying.getexif()
    exif[0x0112] = 6  # to be shown turned by a quarter, clockwise: the left side comes on top
    exif[0x010E] = "a secret place"
    lying.save(tmp_path / "lying.jpg", exif=exif)
    picture = decoded(Thumbnails(tmp_path).of("lying.jpg")).convert("RGB")
    assert picture.size == (80, 160)
    top, bottom = picture.getpixel((40, 20)), picture.getpixel((40, 140))
    assert isinstance(top, tuple)
    assert isinstance(bottom, tuple)
    assert top[0] > 200 > top[2]
    assert bottom[2] > 200 > bottom[0]
    assert not picture.getexif()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16"])
def test_any_mode_is_shown(mode: str, tmp_path: Path) -> None:
    Image.new(mode, (30, 30)).save(tmp_path / "picture.tif" if mode != "P" else tmp_path / "picture.gif")
    name = "picture.gif" if mode == "P" else "picture.tif"
    assert decoded(Thumbnails(tmp_path).of(name)).mode == "RGB"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("gone.jpg", "no longer there"),
        ("broken.jpg", "not an image"),
        ("truncated.jpg", "truncated"),
        ("folder", "not a file"),
        ("../outside.jpg", "not in the model's folder"),
        ("/etc/hostname", "not in the model's folder"),
        ("", "not in the model's folder"),
        ("nul\0.jpg", "no longer there"),
    ],
)
def test_what_cannot_be_shown_says_why(path: str, said: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "folder").mkdir(parents=True)
    Image.effect_noise((300, 300), 80).save(tmp_path / "outside.jpg")
    (folder / "broken.jpg").write_bytes(b"no picture")
    whole = (tmp_path / "outside.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    thumbnail = Thumbnails(folder).of(path)
    assert thumbnail.uri is None
    assert said in thumbnail.reason


def test_all_together_stay_within_the_budget_and_the_same_path_counts_once(tmp_path: Path) -> None:
    for n in range(20):
        Image.effect_noise((300, 300), 80).save(tmp_path / f"{n}.jpg")
    budget = 5 * len(Thumbnails(tmp_path).of("0.jpg").uri or "") + 500
    thumbnails = Thumbnails(tmp_path, budget_bytes=budget)
    first = thumbnails.of("0.jpg")
    assert thumbnails.of("0.jpg") is first
    made = [thumbnails.of(f"{n}.jpg") for n in range(20)]
    shown = [one.uri for one in made if one.uri]
    assert sum(map(len, shown)) <= budget
    assert 3 <= len(shown) <= 6
    assert made[-1].reason == "left out to keep the page small"
