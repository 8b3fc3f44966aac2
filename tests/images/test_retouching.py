"""Light, colour, sharpness, grain and holes: each change measurably what it says."""

from __future__ import annotations

import numpy as np
import pytest

from tests.images.scenes import (
    detail,
    luminance,
    photo,
    with_steps,
)
from tlserve.core.view_steps import Step


@pytest.mark.parametrize("factor", [0.7, 1.1])
def test_brightness_multiplies_the_light(factor: float) -> None:
    plain, view = with_steps(photo()), with_steps(photo(), Step("brightness", (factor,)))
    assert luminance(view).mean() == pytest.approx(luminance(plain).mean() * factor, rel=0.01)


@pytest.mark.parametrize("factor", [0.5, 1.3])
def test_contrast_spreads_the_light_around_its_mean(factor: float) -> None:
    plain, view = with_steps(photo()), with_steps(photo(), Step("contrast", (factor,)))
    assert luminance(view).mean() == pytest.approx(luminance(plain).mean(), abs=1.5)
    assert luminance(view).std() == pytest.approx(luminance(plain).std() * factor, rel=0.05)


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.4])
def test_saturation_spreads_the_colours_and_keeps_the_light(factor: float) -> None:
    plain, view = with_steps(photo()), with_steps(photo(), Step("saturation", (factor,)))
    spread = [np.ptp(picture.astype(int), axis=2).mean() for picture in (plain, view)]
    assert spread[1] == pytest.approx(spread[0] * factor, rel=0.05, abs=0.01)
    assert np.abs(luminance(view) - luminance(plain)).mean() < 1


@pytest.mark.parametrize("degrees", [-60, 20, 120])
def test_hue_turns_the_colours_and_keeps_the_light(degrees: float) -> None:
    plain, view = with_steps(photo()), with_steps(photo(), Step("hue", (float(degrees),)))
    assert np.abs(luminance(view) - luminance(plain)).mean() < 1.5
    axes = np.array([(1, 0.956, 0.621), (1, -0.272, -0.647), (1, -1.106, 1.703)])  # from YIQ to RGB
    before, after = (
        np.linalg.solve(axes, picture.reshape(-1, 3).T.astype(float)) for picture in (plain, view)
    )
    turned = (after[1] + 1j * after[2]) * np.conj(before[1] + 1j * before[2])
    assert np.degrees(np.angle(turned.sum())) == pytest.approx(degrees, abs=3)


def test_grayscale_leaves_the_light_alone() -> None:
    plain, view = with_steps(photo()), with_steps(photo(), Step("grayscale"))
    assert np.array_equal(view[:, :, 0], view[:, :, 1])
    assert np.array_equal(view[:, :, 0], view[:, :, 2])
    assert np.abs(view[:, :, 0] - luminance(plain)).max() <= 1
    assert luminance(view).std() > 5


def test_blur_takes_detail_away_and_more_of_it_takes_more() -> None:
    plain, *blurred = (
        detail(with_steps(photo(), *steps))
        for steps in ((), (Step("blur", (1.0,)),), (Step("blur", (3.0,)),))
    )
    assert blurred[0] < plain * 0.8
    assert blurred[1] < blurred[0] * 0.5


@pytest.mark.parametrize("name", ["sharpen", "edges"])
def test_sharpening_brings_detail_out_and_more_of_it_brings_more(name: str) -> None:
    plain = with_steps(photo())
    mild, strong = (with_steps(photo(), Step(name, (share,))) for share in (0.3, 1.0))
    assert detail(plain) * 1.2 < detail(mild) < detail(strong) / 1.2
    assert luminance(strong).mean() == pytest.approx(luminance(plain).mean(), abs=3)


@pytest.mark.parametrize("deviation", [0.02, 0.05])
def test_noise_has_the_deviation_it_says_and_no_pattern(deviation: float) -> None:
    plain = with_steps(photo()).astype(float)
    grain = with_steps(photo(), Step("noise", (deviation, 7.0))) - plain
    assert grain.std() == pytest.approx(deviation * 255, rel=0.05)
    assert abs(grain.mean()) < 0.5
    assert abs(np.corrcoef(grain[:, 1:].ravel(), grain[:, :-1].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(grain[..., 0].ravel(), grain[..., 1].ravel())[0, 1]) < 0.05


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_erasing_blanks_one_rectangle_in_the_mean_colour_and_nothing_else(ratio: float) -> None:
    plain, view = with_steps(photo()), with_steps(photo(), Step("erase", (0.2, ratio, 0.3, 0.9)))
    gone = (view != plain).any(axis=2)
    rows, columns = np.flatnonzero(gone.any(axis=1)), np.flatnonzero(gone.any(axis=0))
    inside = view[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert inside.reshape(-1, 3).std(axis=0).max() == 0
    assert inside[0, 0] == pytest.approx(plain.reshape(-1, 3).mean(axis=0), abs=1)
    assert inside.shape[0] * inside.shape[1] == pytest.approx(0.2 * plain.shape[0] * plain.shape[1], rel=0.06)
    assert inside.shape[1] / inside.shape[0] == pytest.approx(ratio, rel=0.06)
    plain = plain.copy()
    plain[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = inside[0, 0]
    np.testing.assert_array_equal(view, plain)
