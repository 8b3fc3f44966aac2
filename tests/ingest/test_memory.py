"""What a trainer remembers of a folder: when it helps, when it is not believed, and a part at a time."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.ingest.model_folder import Flowers, picture
from tlserve.core.errors import MassDisappearance
from tlserve.core.types import Snapshot
from tlserve.ingest import Catalog, FolderMemory, KnownFile, ReconcileCancelled, ScanRules, reconcile

Problems = Callable[[Snapshot, str], dict[str, str]]


class CountingCatalog(Catalog):
    """A catalog that counts how often all rows of a model are read."""

    n_read = 0

    def files(self, model: str) -> dict[str, KnownFile]:
        self.n_read += 1
        return super().files(model)


@pytest.fixture
def memory(flowers: Flowers) -> FolderMemory:
    """Of a look at all of `flowers`."""
    memory = FolderMemory()
    flowers.reconcile(memory=memory)
    return memory


def test_a_memory_spares_reading_the_catalog_again(flowers: Flowers, tmp_path: Path) -> None:
    with CountingCatalog(tmp_path / "counting.sqlite3") as catalog:
        memory = FolderMemory()
        for touched in (None, None, ["daisy"]):
            reconcile(catalog, "flowers", flowers.folder, ScanRules(), memory=memory, touched=touched)
        assert catalog.n_read == 1


def test_only_what_was_touched_is_looked_at_and_a_full_look_finds_the_rest(
    flowers: Flowers, memory: FolderMemory
) -> None:
    named, unnamed = (picture(flowers.folder / f"daisy/{name}.jpg", n) for n, name in enumerate("ab", 500))
    after = flowers.reconcile(memory=memory, touched=["daisy/a.jpg"])
    assert named.relative_to(flowers.folder).as_posix() in {image.path for image in after.images}
    assert (after.counts["daisy"], after.files_opened) == (11, 1)
    assert flowers.reconcile(memory=memory, touched=[]).counts["daisy"] == 11
    full = flowers.reconcile(memory=memory)
    assert unnamed.name in {Path(image.path).name for image in full.images}
    assert (full.counts["daisy"], full.files_opened) == (12, 1)


@pytest.mark.parametrize("whole", ["", ".", "daisy//a.jpg", "/daisy", "daisy/../roses"])
def test_a_path_that_says_nothing_certain_means_everything(
    whole: str, flowers: Flowers, memory: FolderMemory
) -> None:
    picture(flowers.folder / "daisy/a.jpg", 500)
    assert flowers.reconcile(memory=memory, touched=[whole]).counts["daisy"] == 11


def test_a_new_class_and_loose_files_need_no_hint(
    flowers: Flowers, memory: FolderMemory, problems: Problems
) -> None:
    flowers.fill("tulips", 3, first_seed=600)
    picture(flowers.folder / "loose.jpg", 700)
    after = flowers.reconcile(memory=memory, touched=[])
    assert after.counts == {"daisy": 10, "roses": 10, "tulips": 3}
    assert problems(after, "not_in_a_class").keys() == {"."}
    shutil.rmtree(flowers.folder / "tulips")
    assert flowers.reconcile(memory=memory, touched=[]).counts == {"daisy": 10, "roses": 10}


@pytest.mark.parametrize("more", [{"follow_symlinks": True}, {"max_pixels": 1_000_000}])
def test_other_rules_mean_a_full_look(more: dict[str, int], flowers: Flowers, memory: FolderMemory) -> None:
    picture(flowers.folder / "daisy/a.jpg", 500)
    assert flowers.reconcile(memory=memory, touched=[], **more).counts["daisy"] == 11


def test_followed_links_mean_a_full_look_always(flowers: Flowers) -> None:
    memory = FolderMemory()
    flowers.reconcile(memory=memory, follow_symlinks=True)
    picture(flowers.folder / "daisy/a.jpg", 500)
    assert flowers.reconcile(memory=memory, touched=[], follow_symlinks=True).counts["daisy"] == 11


def test_another_folder_in_the_place_of_the_first_is_looked_at_whole(
    flowers: Flowers, memory: FolderMemory
) -> None:
    flowers.folder.rename(flowers.away("before"))
    shutil.copytree(flowers.away("before"), flowers.folder)
    picture(flowers.folder / "daisy/a.jpg", 500)
    assert flowers.reconcile(memory=memory, touched=[]).counts["daisy"] == 11


def test_a_look_without_the_memory_is_noticed(flowers: Flowers, memory: FolderMemory) -> None:
    picture(flowers.folder / "daisy/a.jpg", 500)
    flowers.reconcile()
    picture(flowers.folder / "daisy/b.jpg", 501)
    after = flowers.reconcile(memory=memory, touched=["daisy/b.jpg"])
    assert (after.counts["daisy"], after.files_opened) == (12, 1)


def test_what_was_in_the_way_is_remembered_until_it_is_gone(
    flowers: Flowers, memory: FolderMemory, problems: Problems
) -> None:
    bad_name = os.fsdecode(b"\xff.jpg")
    touched = [f"{label}/{name}" for label in ("daisy", "roses") for name in ("link.jpg", bad_name)]
    for label in ("daisy", "roses"):
        (flowers.folder / label / "link.jpg").symlink_to("nowhere")
        (flowers.folder / label / bad_name).touch()
    flowers.reconcile(memory=memory, touched=touched)
    for path in touched[:2]:
        (flowers.folder / path).unlink()
    after = flowers.reconcile(memory=memory, touched=touched[:2])
    assert problems(after, "link_skipped").keys() == {"roses"}
    assert problems(after, "bad_name").keys() == {"roses/\\xff.jpg"}


def test_a_held_disappearance_is_held_until_the_images_return(flowers: Flowers, memory: FolderMemory) -> None:
    (flowers.folder / "daisy").rename(flowers.away("daisy"))
    (flowers.folder / "roses").rename(flowers.away("roses"))
    for touched in (["daisy", "roses"], [], None):
        with pytest.raises(MassDisappearance) as held:
            flowers.reconcile(memory=memory, touched=touched)
        assert (held.value.before, held.value.now) == (20, 0)
    for label in ("daisy", "roses"):
        flowers.away(label).rename(flowers.folder / label)
    back = flowers.reconcile(memory=memory, touched=["daisy", "roses"])
    assert (back.counts, back.files_opened) == ({"daisy": 10, "roses": 10}, 0)


def test_an_unchanged_folder_writes_nothing(flowers: Flowers, memory: FolderMemory, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "catalog.sqlite3") as other:
        before = other.execute("PRAGMA data_version").fetchone()
        for touched in (None, ["daisy/003.jpg"]):
            flowers.reconcile(memory=memory, touched=touched)
        assert other.execute("PRAGMA data_version").fetchone() == before
        picture(flowers.folder / "daisy/a.jpg", 500)
        flowers.reconcile(memory=memory, touched=["daisy/a.jpg"])
        assert other.execute("PRAGMA data_version").fetchone() != before
    other.close()


@pytest.mark.usefixtures("permissions_hold")
def test_what_could_not_be_read_is_tried_again_without_a_hint(
    flowers: Flowers, memory: FolderMemory, problems: Problems
) -> None:
    file, folder = flowers.folder / "daisy/003.jpg", flowers.folder / "roses"
    file.chmod(0)
    folder.chmod(0)
    try:
        blind = flowers.reconcile(memory=memory, touched=["daisy/003.jpg", "roses"])
        assert problems(blind, "unreadable").keys() == {"daisy/003.jpg", "roses"}
        assert blind.counts == {"daisy": 9, "roses": 10}
        assert flowers.reconcile(memory=memory, touched=[]).problems == blind.problems
    finally:
        file.chmod(0o644)
        folder.chmod(0o755)
    picture(folder / "unseen.jpg", 500)
    after = flowers.reconcile(memory=memory, touched=[])
    assert (after.counts, after.problems) == ({"daisy": 10, "roses": 11}, ())


@pytest.mark.usefixtures("permissions_hold")
def test_a_model_folder_that_cannot_be_listed_for_a_while_loses_nothing(
    flowers: Flowers, memory: FolderMemory
) -> None:
    flowers.folder.chmod(0)
    try:
        for touched in (["daisy/003.jpg"], [], None):
            assert len(flowers.reconcile(memory=memory, touched=touched).images) == 20
    finally:
        flowers.folder.chmod(0o755)
    picture(flowers.folder / "roses/unseen.jpg", 500)
    assert len(flowers.reconcile(memory=memory, touched=[]).images) == 21


# -- what differs


def paths(images: Iterable[object]) -> list[str]:
    return sorted(image.path for image in images)  # type: ignore[attr-defined]


def test_a_moved_image_is_removed_and_added_and_a_renamed_one_is_neither(
    flowers: Flowers, memory: FolderMemory
) -> None:
    (flowers.folder / "daisy/003.jpg").rename(flowers.folder / "roses/003.jpg")
    (flowers.folder / "daisy/004.jpg").rename(flowers.folder / "daisy/renamed.jpg")
    after = flowers.reconcile(memory=memory)
    assert paths(after.removed) == ["daisy/003.jpg"]
    assert paths(after.added) == ["roses/003.jpg"]
    assert "daisy/renamed.jpg" in paths(after.images)


def test_a_class_that_becomes_too_small_takes_all_its_images_along(
    flowers: Flowers, memory: FolderMemory
) -> None:
    for file in sorted((flowers.folder / "roses").iterdir())[1:]:
        file.unlink()
    after = flowers.reconcile(memory=memory)
    assert (len(after.removed), after.added) == (10, ())
    flowers.fill("roses", 10, first_seed=100)
    assert len(flowers.reconcile(memory=memory).added) == 10


# -- a part at a time


def test_a_part_is_spread_over_the_classes_and_the_rest_follows(flowers: Flowers) -> None:
    flowers.fill("tulips", 60, first_seed=1000)
    memory = FolderMemory()
    first = flowers.reconcile(memory=memory, most_unread=12)
    assert first.counts == {"daisy": 4, "roses": 4, "tulips": 4}
    assert (first.files_opened, first.n_unread, first.files_seen) == (12, 68, 80)
    assert first.problems == ()
    second = flowers.reconcile(memory=memory, touched=[], most_unread=12)
    assert (second.files_opened, second.n_unread, len(second.added)) == (12, 56, 12)
    rest = flowers.reconcile(memory=memory, touched=[])
    assert (rest.counts, rest.n_unread) == ({"daisy": 10, "roses": 10, "tulips": 60}, 0)


def test_the_same_part_is_chosen_whenever_it_is_asked_for(flowers: Flowers, tmp_path: Path) -> None:
    first = flowers.reconcile(most_unread=7)
    with Catalog(tmp_path / "other.sqlite3") as catalog:
        assert (
            reconcile(catalog, "flowers", flowers.folder, ScanRules(), most_unread=7).images == first.images
        )


def test_what_is_not_read_yet_has_not_disappeared(flowers: Flowers, memory: FolderMemory) -> None:
    for seed, file in enumerate(sorted(flowers.folder.glob("*/*.jpg")), start=600):
        picture(file, seed)
    part = flowers.reconcile(memory=memory, most_unread=4)
    assert (part.files_opened, part.n_unread) == (4, 16)
    assert len(flowers.catalog.files("flowers")) == 20
    assert len(flowers.reconcile(memory=memory, touched=[]).images) == 20


# -- early ends


def test_a_cancelled_look_is_made_good_by_the_next(flowers: Flowers, memory: FolderMemory) -> None:
    touched = [f"daisy/new {seed}.jpg" for seed in range(8)]
    for seed, path in enumerate(touched, start=700):
        picture(flowers.folder / path, seed)
    (flowers.folder / "roses/100.jpg").unlink()
    touched.append("roses/100.jpg")
    told: list[int] = []
    with pytest.raises(ReconcileCancelled):
        flowers.reconcile(
            memory=memory,
            touched=touched,
            on_progress=lambda done, total: told.append(done),
            cancelled=lambda: len(told) >= 3,
        )
    after = flowers.reconcile(memory=memory, touched=touched)
    assert after.counts == {"daisy": 18, "roses": 9}
    assert after.files_opened == 5


KILLED = """
import sys
from pathlib import Path
from tlserve.ingest import Catalog, FolderMemory, ScanRules, reconcile
folder, touched, memory = Path(sys.argv[2]), sys.argv[3:], FolderMemory()
with Catalog(Path(sys.argv[1])) as catalog:
    reconcile(catalog, "flowers", folder, ScanRules(), memory=memory)
    print("looked", flush=True)
    sys.stdin.readline()
    def tell(done, total):
        print(done, flush=True)
    reconcile(catalog, "flowers", folder, ScanRules(), memory=memory, touched=touched, on_progress=tell)
"""


def test_a_look_at_what_was_touched_may_be_killed(flowers: Flowers, seen: Snapshot, tmp_path: Path) -> None:
    touched = [f"daisy/new {seed}.jpg" for seed in range(300)]
    command = [sys.executable, "-c", KILLED, str(tmp_path / "catalog.sqlite3"), str(flowers.folder), *touched]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as killed:
        assert killed.stdin is not None
        assert killed.stdout is not None
        assert killed.stdout.readline() == "looked\n"
        for seed, path in enumerate(touched, start=2000):
            picture(flowers.folder / path, seed)
        (flowers.folder / "roses/100.jpg").rename(flowers.folder / "daisy/100.jpg")
        killed.stdin.write("\n")
        killed.stdin.flush()
        for line in killed.stdout:
            if int(line) >= 270:
                killed.kill()
                break
    assert flowers.catalog.last_snapshot_id("flowers") == seen.snapshot_id
    after = flowers.reconcile()
    assert after.counts == {"daisy": 311, "roses": 9}
    assert after.files_opened <= 301 - 256
    sides = {image.digest: image.split for image in after.images}
    assert {image.digest: image.split for image in seen.images}.items() <= sides.items()
