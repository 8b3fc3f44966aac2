"""Mass disappearance is not deletion: it is held until the images return or a person accepts it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ingest.model_folder import Flowers, picture
from tlserve.core.errors import MassDisappearance
from tlserve.core.types import Snapshot


def lose(flowers: Flowers, n_images: int) -> None:
    """Move that many images, of both classes, out of the folder."""
    files = sorted(flowers.folder.glob("*/*.jpg"), key=lambda file: file.name[-5:])
    flowers.away("lost").mkdir()
    for file in files[:n_images]:
        file.rename(flowers.away("lost") / f"{file.parent.name} {file.name}")


def bring_back(flowers: Flowers) -> None:
    for file in flowers.away("lost").iterdir():
        label, name = file.name.split(" ")
        file.rename(flowers.folder / label / name)


def test_a_vanished_model_folder_is_held_until_it_returns(flowers: Flowers, seen: Snapshot) -> None:
    flowers.folder.rename(flowers.away("unmounted"))
    for _ in range(2):
        with pytest.raises(MassDisappearance) as held:
            flowers.reconcile()
        assert (held.value.before, held.value.now) == (20, 0)
    assert flowers.catalog.last_snapshot_id("flowers") == seen.snapshot_id
    flowers.away("unmounted").rename(flowers.folder)
    back = flowers.reconcile()
    assert back.snapshot_id == seen.snapshot_id
    assert back.files_opened == 0


def test_a_vanished_root_is_held(flowers: Flowers, seen: Snapshot) -> None:
    flowers.watch.rename(flowers.away("unmounted"))
    with pytest.raises(MassDisappearance):
        flowers.reconcile()


def test_an_empty_folder_in_place_of_a_mount_is_held(flowers: Flowers, seen: Snapshot) -> None:
    shutil.rmtree(flowers.folder)
    flowers.folder.mkdir()
    with pytest.raises(MassDisappearance):
        flowers.reconcile()


def test_losing_more_than_half_is_held_and_changes_nothing(flowers: Flowers, seen: Snapshot) -> None:
    known = flowers.catalog.files("flowers")
    lose(flowers, 11)
    with pytest.raises(MassDisappearance) as held:
        flowers.reconcile()
    assert (held.value.before, held.value.now) == (20, 9)
    assert flowers.catalog.files("flowers") == known
    bring_back(flowers)
    assert flowers.reconcile().snapshot_id == seen.snapshot_id


def test_losing_half_is_deletion(flowers: Flowers, seen: Snapshot) -> None:
    lose(flowers, 10)
    assert len(flowers.reconcile().images) == 10
    assert len(flowers.catalog.files("flowers")) == 10


def test_a_person_may_accept_it(flowers: Flowers, seen: Snapshot) -> None:
    lose(flowers, 11)
    assert len(flowers.reconcile(accept_deletions=True).images) == 9
    assert len(flowers.reconcile().images) == 9
    shutil.rmtree(flowers.folder)
    assert flowers.reconcile(accept_deletions=True).images == ()
    assert flowers.catalog.files("flowers") == {}


def test_new_images_do_not_outweigh_what_was_lost(flowers: Flowers, seen: Snapshot) -> None:
    lose(flowers, 11)
    for seed in range(700, 730):
        picture(flowers.folder / f"daisy/{seed}.jpg", seed)
    for _ in range(2):
        with pytest.raises(MassDisappearance):
            flowers.reconcile()
    bring_back(flowers)
    assert len(flowers.reconcile().images) == 50


def test_moving_everything_into_other_classes_loses_nothing(flowers: Flowers, seen: Snapshot) -> None:
    (flowers.folder / "daisy").rename(flowers.away("flat"))
    (flowers.folder / "garden").mkdir()
    flowers.away("flat").rename(flowers.folder / "garden/daisy")
    (flowers.folder / "roses").rename(flowers.folder / "wild")
    assert flowers.reconcile().counts == {"garden": 10, "wild": 10}


def test_replacing_every_image_is_not_disappearance(flowers: Flowers, seen: Snapshot) -> None:
    for seed, file in enumerate(sorted(flowers.folder.glob("*/*.jpg")), start=600):
        picture(file, seed)
    assert len(flowers.reconcile().images) == 20


def test_a_handful_of_images_may_be_deleted(flowers: Flowers, copy: Callable[[Path, Path], Path]) -> None:
    shutil.rmtree(flowers.folder / "roses")
    shutil.rmtree(flowers.folder / "daisy")
    flowers.fill("daisy", 3)
    flowers.reconcile()
    (flowers.folder / "daisy/000.jpg").unlink()
    (flowers.folder / "daisy/001.jpg").unlink()
    assert flowers.reconcile().images == ()


def test_a_model_that_never_had_images_may_have_no_folder(flowers: Flowers) -> None:
    shutil.rmtree(flowers.folder)
    missing = flowers.reconcile()
    assert [problem.kind for problem in missing.problems] == ["unreadable"]
