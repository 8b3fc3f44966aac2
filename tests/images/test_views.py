"""Views: the same on any day, and what is served where nothing is changed."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.images.scenes import (
    CROPPED,
    STRETCHED,
    difference,
    encoded,
    luminance,
    photo,
    views,
)
from tlserve.core.augmentation import POLICIES, policy
from tlserve.core.errors import BadImage
from tlserve.core.view_steps import KINDS
from tlserve.images import ImageDecoder, ViewMaker
from tlserve.images.contact_sheet import contact_sheet
from tlserve.plugin_api import ImageSpec


@pytest.mark.parametrize("spec", [CROPPED, STRETCHED])
def test_a_view_without_any_change_is_what_is_served(spec: ImageSpec) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    rgba = np.dstack([photo(), np.full((240, 300), 90, np.uint8)])
    files = [
        encoded(photo()),
        encoded(photo(size=(1500, 1100)), "JPEG"),
        encoded(photo(), "JPEG", exif=exif.tobytes()),
        encoded(rgba),
        encoded(Image.fromarray(photo()[:, :, 0])),
    ]
    for data in files:
        served = ImageDecoder(spec).decode(data)
        np.testing.assert_array_equal(views(data, policy("none"), 1, spec)[0], served)
        view_0 = ViewMaker(spec, policy("heavy")).views(data, "0" * 64, [0])[0]
        np.testing.assert_array_equal(view_0, served)


PRINT_DIGESTS = """
import hashlib, io
import numpy as np
from tests.images.scenes import CROPPED, encoded, photo, views
from tlserve.core.augmentation import POLICIES, policy
from tlserve.core.view_steps import KINDS
for name in [*KINDS, *POLICIES]:
    made = views(encoded(photo()), policy([name]), 3)
    print(name, hashlib.sha256(np.stack(made).tobytes()).hexdigest())
"""


def test_every_operation_gives_the_same_pixels_in_another_process() -> None:
    root = Path(__file__).resolve().parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", PRINT_DIGESTS], cwd=root, capture_output=True, text=True, check=True
    )
    elsewhere = dict(line.split() for line in ran.stdout.splitlines())
    here = {
        name: hashlib.sha256(np.stack(views(encoded(photo()), policy([name]), 3)).tobytes()).hexdigest()
        for name in [*KINDS, *POLICIES]
    }
    assert here == elsewhere


@pytest.mark.parametrize("name", [name for name in KINDS if KINDS[name].strength])
def test_views_differ_by_number_and_by_image(name: str) -> None:
    how = policy([f"{name}@1"])
    data = encoded(photo())
    first, second, third = views(data, how, 3)
    assert not np.array_equal(first, second)
    assert not np.array_equal(second, third)
    (other,) = ViewMaker(CROPPED, how).views(data, "0" * 64, [1])
    assert not np.array_equal(first, other)


def test_a_view_is_the_same_whichever_others_are_made_with_it() -> None:
    data, how = encoded(photo(), "JPEG"), policy("heavy")
    maker, digest = ViewMaker(CROPPED, how), "5" * 64
    together = maker.views(data, digest, [1, 2, 3, 4, 5])
    for index in (5, 3, 1):
        np.testing.assert_array_equal(maker.views(data, digest, [index])[0], together[index - 1])


@pytest.mark.parametrize(("mild", "strong"), [("light", "standard"), ("standard", "heavy")])
def test_a_heavier_policy_changes_more(mild: str, strong: str) -> None:
    changes = []
    for name in (mild, strong):
        pairs = [(encoded(photo(seed)), ImageDecoder(CROPPED)) for seed in range(6)]
        made = [(views(data, policy(name), 6)[1::2], decoder.decode(data)) for data, decoder in pairs]
        changes.append(np.mean([difference(view, plain) for some, plain in made for view in some]))
    assert changes[0] < changes[1]


def test_no_view_of_any_policy_is_near_blank() -> None:
    for seed in range(10):
        data = encoded(photo(seed))
        served = luminance(ImageDecoder(CROPPED).decode(data)).std()
        for name in ("light", "standard", "heavy"):
            assert min(luminance(view).std() for view in views(data, policy(name), 12)) > served / 4


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (96, 96), (2000, 1500)])
def test_pictures_of_any_size_have_views(size: tuple[int, int]) -> None:
    data = encoded(np.full((size[1], size[0], 3), 90, np.uint8))
    for view in views(data, policy(["heavy", "rotate=180", "translate"]), 12):
        assert view.shape == (96, 96, 3)
        assert view.dtype == np.uint8


def test_a_broken_file_is_a_bad_image_and_a_large_one_is_too_large() -> None:
    data = encoded(photo(), "JPEG")
    with pytest.raises(BadImage, match="truncated"):
        views(data[:2000], policy("standard"), 2)
    with pytest.raises(BadImage, match="max_pixels"):
        ViewMaker(CROPPED, policy("light"), max_pixels=1000).views(data, "0" * 64, [1])


def test_a_contact_sheet_shows_the_picture_and_all_its_views() -> None:
    data = encoded(photo())
    sheet = np.asarray(contact_sheet(data, CROPPED, policy("standard"), 5))
    expected = [ImageDecoder(CROPPED).decode(data), *views(data, policy("standard"), 5)]
    windows = np.lib.stride_tricks.sliding_window_view(sheet, (96, 96, 3))[:, :, 0]
    for picture in expected:
        corner = (windows[:, :, :4, :4] == picture[:4, :4]).all(axis=(2, 3, 4))
        assert any(np.array_equal(windows[place[0], place[1]], picture) for place in np.argwhere(corner))
