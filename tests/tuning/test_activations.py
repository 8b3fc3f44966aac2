"""The activation cache: right, within its budget, and still there after an interruption."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tuning.small import CPU, IMAGE, SmallBackbone, colours, pictures_of
from tlserve.tuning import TuningCancelled
from tlserve.tuning.activations import Activations, plan_cache
from tlserve.tuning.cut import Cut, cut

N_IMAGES = 130
FILES, _ = colours(N_IMAGES)


@pytest.fixture(scope="module")
def parts() -> Cut:
    return cut(SmallBackbone().torch_module(), IMAGE, 1)


Open = Callable[..., Activations]


@pytest.fixture
def opened(parts: Cut) -> Iterator[Open]:
    """Opens caches, and closes them in the end."""
    with ExitStack() as stack:

        def open_one(
            folder: Path,
            *,
            of: Cut = parts,
            gigabytes: float = 1.0,
            weights: str = "a",
            files: list[bytes] = FILES,
        ) -> Activations:
            pictures = pictures_of(files)
            made = Activations(of, pictures, folder, weights=weights, budget_gb=gigabytes, device=CPU)
            return stack.enter_context(closing(made))

        yield open_one


def _all(activations: Activations) -> torch.Tensor:
    """What the tuned part reads of all pictures and views, side by side."""
    images = np.tile(np.arange(N_IMAGES), 2)
    views = np.repeat([0, 1], N_IMAGES)
    return torch.cat([part.flatten(1) for part in activations.batch(images, views)], dim=1)


def _after(n: int) -> Callable[[], bool]:
    """Cancels when it is asked for the n-th time."""
    asked = itertools.count(1)
    return lambda: next(asked) >= n


def test_what_comes_from_disk_is_what_would_be_worked_out(opened: Open, parts: Cut, tmp_path: Path) -> None:
    cached, fresh = opened(tmp_path / "a"), opened(tmp_path / "b", gigabytes=0)
    cached.fill()
    fresh.fill()
    assert (cached.n_finished, fresh.n_finished) == (2 * N_IMAGES, 0)
    from_disk, worked_out = _all(cached), _all(fresh)
    assert torch.allclose(from_disk, worked_out, rtol=2e-3, atol=1e-3)
    assert from_disk.std() > 0.1
    assert not torch.allclose(from_disk[:N_IMAGES], from_disk[N_IMAGES:], atol=0.1)


def test_the_cache_stays_within_its_budget_and_the_rest_is_worked_out(
    opened: Open, parts: Cut, tmp_path: Path
) -> None:
    activations = opened(tmp_path, gigabytes=100 * parts.n_numbers * 2 / 1e9 + 1e-9)
    activations.fill()
    assert activations.n_finished == 100
    assert (tmp_path / "activations.slots").stat().st_size == 100 * parts.n_numbers * 2
    whole = opened(tmp_path / "whole")
    whole.fill()
    assert torch.allclose(_all(activations), _all(whole), rtol=2e-3, atol=1e-3)


def test_what_an_interrupted_run_finished_is_not_worked_out_again(
    opened: Open, parts: Cut, tmp_path: Path
) -> None:
    first = opened(tmp_path)
    with pytest.raises(TuningCancelled):
        first.fill(cancelled=_after(3))
    first.close()
    assert first.n_finished == 128
    again = opened(tmp_path)
    whole = opened(tmp_path / "whole")
    whole.fill()
    assert again.n_finished == 128
    again.fill()
    assert torch.equal(_all(again), _all(whole))


def test_records_that_were_written_but_not_counted_are_not_believed(
    opened: Open, parts: Cut, tmp_path: Path
) -> None:
    first = opened(tmp_path)
    with pytest.raises(TuningCancelled):
        first.fill(cancelled=_after(2))
    first.close()
    with (tmp_path / "activations.slots").open("ab") as file:
        file.write(bytes(parts.n_numbers * 2 * 7 + 5))
    again = opened(tmp_path)
    assert again.n_finished == 64
    again.fill()
    whole = opened(tmp_path / "whole")
    whole.fill()
    assert torch.equal(_all(again), _all(whole))


@pytest.mark.parametrize("damage", ["cut", "count", "unreadable"])
def test_a_damaged_cache_starts_anew(opened: Open, parts: Cut, tmp_path: Path, damage: str) -> None:
    first = opened(tmp_path)
    first.fill()
    first.close()
    records, count = tmp_path / "activations.slots", tmp_path / "activations.json"
    if damage == "cut":
        records.write_bytes(records.read_bytes()[:-1])
    else:
        count.write_text(count.read_text()[:-3] if damage == "unreadable" else '{"finished": 9999}')
    assert opened(tmp_path).n_finished == 0


@pytest.mark.parametrize("other", ["weights", "files", "parts"])
def test_a_cache_of_something_else_is_not_used(opened: Open, parts: Cut, tmp_path: Path, other: str) -> None:
    first = opened(tmp_path)
    first.fill()
    first.close()
    changed = {
        "weights": {"weights": "b"},
        "files": {"files": FILES[::-1]},
        "parts": {"of": cut(SmallBackbone().torch_module(), IMAGE, 2)},
    }
    assert opened(tmp_path, **changed[other]).n_finished == 0


def test_where_nothing_is_frozen_the_decoded_pictures_are_kept(opened: Open, tmp_path: Path) -> None:
    whole = cut(SmallBackbone().torch_module(), IMAGE, 3)
    activations = opened(tmp_path, of=whole)
    activations.fill()
    (batch,) = activations.batch(np.array([3]), np.array([0]))
    pixels = pictures_of(FILES).pixels([3], [0])[0].astype(np.float32)
    assert np.allclose(batch[0].permute(1, 2, 0).numpy(), (pixels - 127.5) / 60, atol=1e-6)
    assert activations.budget.slot_bytes == 24 * 24 * 3


def test_the_plan_says_what_finds_room(parts: Cut) -> None:
    plan = plan_cache(parts, 1000, 500 * parts.n_numbers * 2 / 1e9 + 1e-9)
    assert (plan.n_cached, plan.share) == (500, 0.5)
    assert plan_cache(parts, 1000, 0).n_cached == 0
    assert plan_cache(parts, 1000, 100).n_cached == 1000
