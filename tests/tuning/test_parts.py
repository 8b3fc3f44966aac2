"""The small parts: learning rates, the first head, the validation slice, views, the estimate, the options."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tuning.small import CPU, IMAGE, OPTIONS, SmallBackbone, colours, pictures_of
from tlserve.core.tuning import TuneOptions, blocks_for
from tlserve.core.wire import as_json, from_json
from tlserve.tuning import Lesson, estimate, validation_slice
from tlserve.tuning.first_head import fit_first_head
from tlserve.tuning.layer import HeadLayer
from tlserve.tuning.learner import backbone_rate, rate_share
from tlserve.tuning.pictures import normalised


def test_shallow_blocks_learn_more_slowly_than_deep_ones() -> None:
    options = dataclasses.replace(
        OPTIONS, head_learning_rate=0.01, backbone_fraction=0.1, block_decay=0.5, scratch=False
    )
    assert [backbone_rate(options, depth) for depth in range(3)] == pytest.approx([1e-3, 5e-4, 2.5e-4])
    scratch = dataclasses.replace(options, scratch=True)
    assert {backbone_rate(scratch, depth) for depth in range(3)} == {0.01}


def test_rates_rise_linearly_and_fall_as_a_cosine() -> None:
    shares = [rate_share(step, 100, 0.1) for step in range(100)]
    assert np.allclose(np.diff(shares[:10]), np.diff(shares[:10])[0])
    assert shares[10] == 1.0 == max(shares)
    assert all(np.diff(shares[10:]) < 0)
    assert shares[55] == pytest.approx(0.5, abs=0.01)
    assert shares[-1] < 0.001
    assert rate_share(0, 100, 0) == 1.0


def test_the_first_head_tells_apart_what_a_line_can() -> None:
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(300, 10, generator=draw) * torch.logspace(-3, 3, 10) + 5
    targets = (rows[:, 0] > 5).long()
    head = HeadLayer(10, 2)
    fit_first_head(head, (rows[:200], targets[:200]), (rows[200:], targets[200:]), torch.ones(2))
    assert (head(rows[200:]).argmax(1) == targets[200:]).float().mean() > 0.95


def test_a_head_gives_the_same_scores_however_it_standardises() -> None:
    draw = torch.Generator().manual_seed(0)
    head = HeadLayer(4, 3)
    with torch.no_grad():
        head.weight.normal_(generator=draw)
        head.bias.normal_(generator=draw)
    rows = torch.randn(20, 4, generator=draw) * 3 + 7
    before = head(rows)
    head.standardise(torch.cat([rows, rows * 2]))
    assert torch.allclose(head(rows), before, atol=1e-4)
    dense = head.dense()
    assert np.allclose(rows.numpy() @ dense.weight + dense.bias, before.detach().numpy(), atol=1e-4)


def test_a_tenth_of_each_class_validates() -> None:
    targets = np.repeat([0, 1, 2], [100, 50, 4])
    chosen = validation_slice(targets)
    assert np.bincount(targets[chosen]).tolist() == [10, 5, 1]
    assert np.array_equal(chosen, validation_slice(targets))
    assert not np.array_equal(chosen, validation_slice(targets, seed=1))


def test_near_duplicates_validate_together_or_not_at_all() -> None:
    targets = np.repeat([0, 1], 60)
    groups = np.arange(120) // 3
    chosen = validation_slice(targets, groups)
    assert 8 <= len(chosen) <= 18
    assert all(np.isin(np.flatnonzero(groups == group), chosen).all() for group in groups[chosen])


def test_no_class_is_left_to_validation_alone() -> None:
    targets, groups = np.repeat([0, 1], [2, 30]), np.concatenate([[0, 0], np.arange(1, 31)])
    assert not np.isin([0, 1], validation_slice(targets, groups)).any()


def test_a_lesson_that_does_not_fit_together_is_refused() -> None:
    files, targets = colours(10)
    pictures = pictures_of(files)
    with pytest.raises(ValueError, match="targets of shape"):
        Lesson(pictures, targets[:9], np.array([0]), 2)
    with pytest.raises(ValueError, match="validate"):
        Lesson(pictures, targets, np.empty(0, np.intp), 2)
    with pytest.raises(ValueError, match="in \\[0, 1\\)"):
        Lesson(pictures, targets, np.array([0]), 1)


def test_view_zero_is_the_picture_and_the_others_are_changed_and_stay_so() -> None:
    files, _ = colours(6)
    pictures = pictures_of(files)
    plain, view = pictures.pixels(range(6), [0] * 6), pictures.pixels(range(6), [1] * 6)
    assert list(pictures.views) == [0, 1]
    assert np.array_equal(view, plain[:, :, ::-1])
    threads = dataclasses.replace(pictures, threads=3)
    assert np.array_equal(threads.pixels(range(6), [1] * 6), view)


def test_pictures_are_normalised_as_the_spec_says() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3), np.uint8)
    spec = dataclasses.replace(IMAGE, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))
    expected = (pixels.astype(np.float32) - [1, 2, 3]) / [4, 5, 6]
    assert np.allclose(normalised(pixels, spec, CPU).numpy(), expected.transpose(0, 3, 1, 2))
    last = dataclasses.replace(spec, layout="NHWC")
    assert np.allclose(normalised(pixels, last, CPU).numpy(), expected)
    blue = dataclasses.replace(last, channel_order="BGR")
    expected = (pixels[..., ::-1].astype(np.float32) - [1, 2, 3]) / [4, 5, 6]
    assert np.allclose(normalised(pixels, blue, CPU).numpy(), expected)


def test_the_estimate_grows_with_the_images_and_knows_the_cache(tmp_path: Path) -> None:
    def of(n_images: int, options: TuneOptions) -> tuple[float, ...]:
        backbone = SmallBackbone()
        found = estimate(
            backbone.torch_module(),
            backbone.info.image,
            options,
            n_images=n_images,
            n_classes=2,
            device=CPU,
            folder=tmp_path / "not there yet",
        )
        assert found.n_unfrozen == 2
        assert found.uncached_epoch_seconds >= found.epoch_seconds > 0
        return found.seconds, found.cached_share, found.caching_seconds, found.cache_bytes

    seconds, share, caching, n_bytes = of(1000, OPTIONS)
    assert share == 1.0
    assert n_bytes == 2000 * 8 * 12 * 12 * 2
    assert of(100_000, OPTIONS)[0] > 10 * seconds
    # There is only one flip of a picture, however many are asked for.
    assert of(1000, dataclasses.replace(OPTIONS, views=5))[3] == n_bytes
    _, none, no_caching, _ = of(1000, dataclasses.replace(OPTIONS, activation_cache_gb=0))
    assert (none, no_caching) == (0.0, 0.0)
    assert caching > 0


def test_more_blocks_learn_the_more_images_there_are() -> None:
    found = [blocks_for("auto", n, 6) for n in (10, 499, 500, 5_000, 20_000, 100_000, 10**7)]
    assert found == sorted(found)
    assert (found[0], found[-1]) == (1, 6)
    assert blocks_for("all", 10, 6) == 6
    assert [blocks_for(k, 10, 6) for k in (1, 3, 99)] == [1, 3, 6]
    assert all(1 <= blocks_for("auto", n, 1) <= 1 for n in (10, 10**6))


@pytest.mark.parametrize(
    "wrong",
    [
        {"unfreeze": 0},
        {"epochs": 0},
        {"batch_size": 0},
        {"views": -1},
        {"warmup": 1.0},
        {"label_smoothing": -0.1},
        {"head_learning_rate": 0.0},
        {"activation_cache_gb": -1.0},
    ],
)
def test_an_option_that_cannot_work_is_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TuneOptions(**wrong)


@pytest.mark.parametrize("unfreeze", ["auto", "all", 3])
def test_options_travel_as_json(unfreeze: object) -> None:
    options = dataclasses.replace(OPTIONS, unfreeze=unfreeze, augment=("flip", "rotate=10"))
    assert from_json(TuneOptions, as_json(options)) == options
