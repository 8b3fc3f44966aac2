"""Which part of a picture a view shows: nothing lost, nothing black, marks where they belong."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.images.scenes import (
    CENTRE,
    CROPPED,
    STRETCHED,
    difference,
    dot,
    encoded,
    photo,
    views,
    whereabouts,
    with_steps,
)
from tlserve.core.augmentation import policy
from tlserve.core.view_steps import Step
from tlserve.images import ImageDecoder
from tlserve.plugin_api import ImageSpec


def test_flips_are_the_mirrored_pixels_of_what_is_served() -> None:
    data = encoded(photo(), "JPEG")
    served = ImageDecoder(CROPPED).decode(data)
    np.testing.assert_array_equal(with_steps(data, Step("flip")), served[:, ::-1])
    np.testing.assert_array_equal(with_steps(data, Step("vertical_flip")), served[::-1])
    np.testing.assert_array_equal(views(data, policy("light"), 1)[0], served[:, ::-1])


@pytest.mark.parametrize(("across", "down"), [(0, 0), (1, 0), (0.5, 1)])
def test_a_crop_shows_the_part_it_names(across: float, down: float) -> None:
    x, y = np.meshgrid(np.arange(400), np.arange(300))
    ramp = np.stack([x * 255 / 399, y * 255 / 299, x * 0], -1).astype(np.uint8)
    view = with_steps(ramp, Step("crop", (0.5, across, down)))
    # The largest square is 300 wide; half of it, 150, may lie from 0 to 250 across and from 0 to 150 down.
    assert view[48, 0, 0] / 255 * 400 == pytest.approx(250 * across, abs=4)
    assert view[48, -1, 0] / 255 * 400 == pytest.approx(250 * across + 150, abs=4)
    assert view[0, 48, 1] / 255 * 300 == pytest.approx(150 * down, abs=4)
    assert view[-1, 48, 1] / 255 * 300 == pytest.approx(150 * down + 150, abs=4)


def test_a_crop_is_cut_from_the_whole_picture_so_it_is_as_sharp_as_that() -> None:
    stripes = np.repeat((np.arange(384) % 4 < 2)[None, :] * np.uint8(255), 384, axis=0)
    picture = np.repeat(stripes[:, :, None], 3, axis=2)
    whole = ImageDecoder(CROPPED).decode(encoded(picture))
    quarter = with_steps(picture, Step("crop", (0.25, 0.5, 0.5)))
    turned = with_steps(picture, Step("crop", (0.25, 0.5, 0.5)), Step("rotate", (90.0,)))
    assert whole.std() < 30
    assert quarter.std() > 100
    assert turned.std() > 80


@pytest.mark.parametrize("angle", [90, -90, 30, -45, 180, 7])
def test_a_turn_moves_a_mark_to_where_it_belongs(angle: float) -> None:
    # The view shows the middle 200 of 400 pixels in 96; the dot lies right of its centre by 60.
    view = with_steps(dot(260, 200), Step("rotate", (float(angle),)), spec=CENTRE)
    radius = 60 * 96 / 200
    across, down = whereabouts(view)
    assert across == pytest.approx(48 + radius * np.cos(np.radians(angle)), abs=0.6)
    assert down == pytest.approx(48 - radius * np.sin(np.radians(angle)), abs=0.6)


def test_a_turn_by_nothing_changes_next_to_nothing() -> None:
    view = with_steps(photo(), Step("rotate", (0.0,)))
    assert difference(view, with_steps(photo())) < 3


@pytest.mark.parametrize(("right", "down"), [(0.2, 0.0), (0.0, -0.3), (-0.1, 0.25)])
def test_a_translation_moves_a_mark_by_its_share(right: float, down: float) -> None:
    view = with_steps(dot(200, 200), Step("translate", (right, down)), spec=CENTRE)
    assert whereabouts(view) == pytest.approx((48 + 96 * right, 48 + 96 * down), abs=0.5)


def test_perspective_lays_the_view_on_the_corners_it_names() -> None:
    # The top edge of what is shown becomes half as long: there everything is twice as wide.
    aslant = Step("perspective", (0.25, 0.0, -0.25, 0.0, 0.0, 0.0, 0.0, 0.0))
    for across in (160, 230):
        near_top, near_bottom = (
            whereabouts(with_steps(dot(across, down), aslant, spec=CENTRE))[0] - 48 for down in (110, 290)
        )
        plain = (across - 200) * 96 / 200
        assert near_top == pytest.approx(plain * 2, rel=0.12)
        assert near_bottom == pytest.approx(plain, rel=0.12)


@pytest.mark.parametrize("spec", [CROPPED, STRETCHED])
@pytest.mark.parametrize("size", [(300, 240), (96, 96), (40, 700), (60, 50)])
def test_no_view_has_a_black_border(spec: ImageSpec, size: tuple[int, int]) -> None:
    data = encoded(photo(size=size))
    for written in (["rotate=180"], ["translate=0.5"], ["perspective=0.2"], ["crop=0.2"]):
        for view in views(data, policy([*written]), 8, spec):
            assert view.shape == (spec.height, spec.width, 3)
            assert view.min() > 20
    for view in views(data, policy("crop=0.4,rotate=180,translate=0.4,perspective=0.2"), 20, spec):
        assert view.min() > 20


def test_a_sideways_photo_is_turned_before_it_is_changed() -> None:
    upright = Image.fromarray(photo())
    exif = Image.Exif()
    exif[0x0112] = 6
    sideways = encoded(upright.transpose(Image.Transpose.ROTATE_90), exif=exif)
    steps = (Step("crop", (0.6, 0.0, 0.0)), Step("rotate", (10.0,)))
    np.testing.assert_array_equal(with_steps(sideways, *steps), with_steps(encoded(upright), *steps))
    # What is served of it is resized first and turned then, which rounds a little differently.
    mirrored = ImageDecoder(CROPPED).decode(encoded(upright))[:, ::-1]
    assert difference(with_steps(sideways, Step("flip")), mirrored) < 1


def test_transparent_parts_are_white_in_a_view_too() -> None:
    rgba = np.zeros((200, 200, 4), np.uint8)
    rgba[:100] = (200, 10, 10, 255)
    view = with_steps(encoded(Image.fromarray(rgba)), Step("crop", (0.9, 0.5, 0.5)))
    assert tuple(view[-1, -1]) == (255, 255, 255)
    assert tuple(view[0, 0]) == (200, 10, 10)


def test_no_crop_shows_a_piece_of_empty_sky() -> None:
    sky = np.full((400, 400, 3), (190, 205, 230), np.uint8)
    sky[300:400, 280:400] = photo(size=(120, 100))
    data = encoded(sky)
    served = ImageDecoder(CROPPED).decode(data).std()
    for written in ("crop=0.2", "heavy"):
        assert min(view.std() for view in views(data, policy(written), 60)) > served / 8
