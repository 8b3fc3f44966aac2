"""Copies and look-alikes in a watched folder: found without opening a file, and on one side of the split."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from tests.ingest.model_folder import Flowers, picture
from tlserve.core.types import LabelledImage, Snapshot, Split
from tlserve.ingest import Catalog, Change, KnownFile, duplicates, group_numbers

Copy = Callable[[Path, Path], Path]


def saved_again(source: Path, target: Path) -> None:
    """The same picture in other bytes."""
    with Image.open(source) as image:
        image.save(target, "JPEG", quality=60)


def test_a_folder_without_duplicates_has_none(flowers: Flowers, seen: Snapshot) -> None:
    found = duplicates(flowers.catalog, seen)
    assert (found.exact.n_groups, found.near.n_groups, found.near_across.n_groups) == (0, 0, 0)
    assert group_numbers(flowers.catalog, "flowers", seen.images) == list(range(20))


def test_copies_in_one_class_are_exact_duplicates(flowers: Flowers, copy: Copy) -> None:
    daisy = flowers.folder / "daisy"
    copy(daisy / "003.jpg", daisy / "deeper/copy.jpg")
    copy(daisy / "003.jpg", daisy / "zzz.jpg")
    found = duplicates(flowers.catalog, flowers.reconcile())
    assert found.exact.groups == (("daisy/003.jpg", "daisy/deeper/copy.jpg", "daisy/zzz.jpg"),)
    assert (found.exact.n_groups, found.exact.n_images) == (1, 3)
    assert found.near.n_groups == 0


def test_copies_in_two_classes_are_a_conflict_and_no_duplicate(flowers: Flowers, copy: Copy) -> None:
    copy(flowers.folder / "daisy/003.jpg", flowers.folder / "roses/003.jpg")
    snapshot = flowers.reconcile()
    assert [problem.kind for problem in snapshot.problems] == ["conflict"]
    assert duplicates(flowers.catalog, snapshot).exact.n_groups == 0


def test_a_picture_saved_again_is_a_near_duplicate(flowers: Flowers) -> None:
    saved_again(flowers.folder / "daisy/003.jpg", flowers.folder / "daisy/coarser.jpg")
    snapshot = flowers.reconcile()
    found = duplicates(flowers.catalog, snapshot)
    assert found.near.groups == (("daisy/003.jpg", "daisy/coarser.jpg"),)
    assert (found.exact.n_groups, found.near_across.n_groups) == (0, 0)
    numbers = dict(
        zip(
            (image.path for image in snapshot.images),
            group_numbers(flowers.catalog, "flowers", snapshot.images),
            strict=True,
        )
    )
    assert numbers["daisy/003.jpg"] == numbers["daisy/coarser.jpg"]
    assert len(set(numbers.values())) == 20


def test_a_near_duplicate_that_comes_later_is_found_too(flowers: Flowers, seen: Snapshot) -> None:
    saved_again(flowers.folder / "roses/105.jpg", flowers.folder / "roses/later.jpg")
    found = duplicates(flowers.catalog, flowers.reconcile())
    assert found.near.groups == (("roses/105.jpg", "roses/later.jpg"),)


def test_look_alikes_in_two_classes_are_told_apart(flowers: Flowers) -> None:
    saved_again(flowers.folder / "daisy/003.jpg", flowers.folder / "roses/coarser.jpg")
    found = duplicates(flowers.catalog, flowers.reconcile())
    assert found.near_across.groups == (("daisy/003.jpg", "roses/coarser.jpg"),)
    assert found.near.n_groups == 0


def test_near_duplicates_are_on_one_side(flowers: Flowers) -> None:
    for seed in range(10):
        saved_again(flowers.folder / f"daisy/{seed:03}.jpg", flowers.folder / f"daisy/again{seed}.jpg")
    snapshot = flowers.reconcile()
    sides: defaultdict[int, set[Split]] = defaultdict(set)
    numbers = group_numbers(flowers.catalog, "flowers", snapshot.images)
    for number, image in zip(numbers, snapshot.images, strict=True):
        sides[number].add(image.split)
    assert len(sides) == 20
    assert all(len(group) == 1 for group in sides.values())
    assert {side for group in sides.values() for side in group} == {Split.TRAIN, Split.HELD_OUT}


def test_what_was_deleted_is_no_duplicate_any_more(flowers: Flowers, copy: Copy) -> None:
    extra = copy(flowers.folder / "daisy/003.jpg", flowers.folder / "daisy/copy.jpg")
    again = flowers.folder / "daisy/coarser.jpg"
    saved_again(flowers.folder / "daisy/004.jpg", again)
    before = duplicates(flowers.catalog, flowers.reconcile())
    assert (before.exact.n_groups, before.near.n_groups) == (1, 1)
    extra.unlink()
    again.unlink()
    after = duplicates(flowers.catalog, flowers.reconcile())
    assert (after.exact.n_groups, after.near.n_groups) == (0, 0)


def test_other_models_do_not_matter(flowers: Flowers, seen: Snapshot) -> None:
    twin = picture(flowers.watch / "others/daisy/000.jpg", 0)
    assert twin.read_bytes() == (flowers.folder / "daisy/000.jpg").read_bytes()
    flowers.catalog.add_read("others", [known("daisy/000.jpg", seen.images[0].digest)])
    assert duplicates(flowers.catalog, seen).exact.n_groups == 0


def test_only_the_first_groups_are_named_but_all_are_counted(flowers: Flowers, copy: Copy) -> None:
    for seed in range(4):
        copy(flowers.folder / f"daisy/00{seed}.jpg", flowers.folder / f"daisy/copy{seed}.jpg")
    found = duplicates(flowers.catalog, flowers.reconcile(), groups_told=2).exact
    assert found.groups == (("daisy/000.jpg", "daisy/copy0.jpg"), ("daisy/001.jpg", "daisy/copy1.jpg"))
    assert (found.n_groups, found.n_images) == (4, 8)


def known(path: str, digest: str) -> KnownFile:
    return KnownFile(path, 1, 1, 1, 1, digest, "ok", 0, 1)


def test_a_hundred_thousand_images_take_a_moment(tmp_path: Path) -> None:
    images = tuple(
        LabelledImage(f"{n:064x}", f"class {n % 10}", Split.TRAIN, f"class {n % 10}/{n}.jpg")
        for n in range(100_000)
    )
    snapshot = Snapshot("many", "id", images)
    sides = {image.digest: (image.split, f"{n // 20:016x}") for n, image in enumerate(images)}
    with Catalog(tmp_path / "catalog.sqlite3") as catalog:
        catalog.add_read("many", (known(image.path, image.digest) for image in images))
        catalog.add_read("many", (known(f"{image.path}.copy", image.digest) for image in images[:500]))
        catalog.commit(snapshot, Change(sides=sides))
        began = time.process_time()
        found = duplicates(catalog, snapshot)
        numbers = group_numbers(catalog, "many", images)
        spent = time.process_time() - began
    assert (found.exact.n_groups, found.near_across.n_groups) == (500, 5_000)
    assert max(numbers) == 4_999
    assert spent < 5
    print(f"{spent:.2f} s")
