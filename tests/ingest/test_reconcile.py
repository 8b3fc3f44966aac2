"""What a person does to a folder, and what the next snapshot makes of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ingest.model_folder import Flowers, picture
from tlserve.core.types import Snapshot, Split
from tlserve.ingest import ReconcileCancelled

Problems = Callable[[Snapshot, str], dict[str, str]]
Copy = Callable[[Path, Path], Path]


def sides(snapshot: Snapshot) -> dict[str, Split]:
    return {image.digest: image.split for image in snapshot.images}


def test_the_first_snapshot_holds_every_image_and_a_fifth_held_out(flowers: Flowers, seen: Snapshot) -> None:
    assert seen.counts == {"daisy": 10, "roses": 10}
    assert seen.files_seen == seen.files_opened == 20
    assert len(seen.on(Split.HELD_OUT)) == 4
    assert seen.problems == ()
    assert flowers.catalog.last_snapshot_id("flowers") == seen.snapshot_id


def test_unchanged_files_are_not_opened_and_give_the_same_snapshot(flowers: Flowers, seen: Snapshot) -> None:
    again = flowers.reconcile()
    assert again.files_opened == 0
    assert again.files_seen == 20
    assert again.snapshot_id == seen.snapshot_id
    assert again.images == seen.images


def test_a_renamed_class_keeps_its_sides_and_opens_nothing(flowers: Flowers, seen: Snapshot) -> None:
    (flowers.folder / "daisy").rename(flowers.folder / "margerite")
    renamed = flowers.reconcile()
    assert renamed.counts == {"margerite": 10, "roses": 10}
    assert renamed.files_opened == 0
    assert sides(renamed) == sides(seen)
    assert renamed.snapshot_id != seen.snapshot_id


def test_a_class_renamed_by_copying_keeps_its_sides(flowers: Flowers, seen: Snapshot) -> None:
    shutil.copytree(flowers.folder / "daisy", flowers.folder / "margerite")
    shutil.rmtree(flowers.folder / "daisy")
    shutil.copytree(flowers.folder / "roses", flowers.folder / "rosen")
    shutil.rmtree(flowers.folder / "roses")
    renamed = flowers.reconcile()
    assert renamed.counts == {"margerite": 10, "rosen": 10}
    assert sides(renamed) == sides(seen)


def test_a_renamed_file_is_the_same_image(flowers: Flowers, seen: Snapshot) -> None:
    (flowers.folder / "daisy/003.jpg").rename(flowers.folder / "daisy/best.jpeg")
    renamed = flowers.reconcile()
    assert renamed.snapshot_id == seen.snapshot_id
    assert renamed.files_opened <= 1


def test_an_image_moved_to_another_class_changes_its_label_only(flowers: Flowers, seen: Snapshot) -> None:
    moved = next(image for image in seen.images if image.path == "daisy/003.jpg")
    (flowers.folder / "daisy/003.jpg").rename(flowers.folder / "roses/003.jpg")
    after = flowers.reconcile()
    assert after.counts == {"daisy": 9, "roses": 11}
    assert after.files_opened <= 1
    assert sides(after) == sides(seen)
    assert next(image for image in after.images if image.digest == moved.digest).label == "roses"


def test_a_deleted_image_is_left_out_and_keeps_its_side_when_it_returns(
    flowers: Flowers, seen: Snapshot
) -> None:
    held_out = seen.on(Split.HELD_OUT)[0]
    file = flowers.folder / held_out.path
    data = file.read_bytes()
    file.unlink()
    assert len(flowers.reconcile().images) == 19
    file.write_bytes(data)
    assert sides(flowers.reconcile()) == sides(seen)


def test_replaced_content_is_a_new_image(flowers: Flowers, seen: Snapshot) -> None:
    picture(flowers.folder / "daisy/003.jpg", 999)
    after = flowers.reconcile()
    assert after.files_opened == 1
    assert len(sides(after).keys() - sides(seen).keys()) == 1
    assert len(after.images) == 20


def test_content_replaced_under_the_same_size_and_mtime_is_noticed(flowers: Flowers, seen: Snapshot) -> None:
    file = flowers.folder / "daisy/003.jpg"
    before = file.stat()
    other = picture(flowers.away("other.jpg"), 998).read_bytes()
    size = max(before.st_size, len(other))
    file.write_bytes(file.read_bytes().ljust(size, b"\0"))
    flowers.reconcile()
    before = file.stat()
    file.write_bytes(other.ljust(size, b"\0"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert flowers.reconcile().files_opened == 1


def test_one_new_image_opens_one_file(flowers: Flowers, seen: Snapshot) -> None:
    picture(flowers.folder / "daisy/new.jpg", 500)
    after = flowers.reconcile()
    assert after.files_opened == 1
    assert after.counts == {"daisy": 11, "roses": 10}
    assert sides(seen).items() <= sides(after).items()


def test_a_folder_moved_in_and_out_again(flowers: Flowers, seen: Snapshot) -> None:
    outside = flowers.away("tulips")
    for seed in range(200, 206):
        picture(outside / f"{seed}.jpg", seed)
    outside.rename(flowers.folder / "tulips")
    assert flowers.reconcile().counts == {"daisy": 10, "roses": 10, "tulips": 6}
    (flowers.folder / "tulips").rename(outside)
    gone = flowers.reconcile()
    assert gone.snapshot_id == seen.snapshot_id
    outside.rename(flowers.folder / "tulips")
    assert flowers.reconcile().counts["tulips"] == 6


def test_nested_folders_belong_to_their_class(flowers: Flowers, seen: Snapshot) -> None:
    picture(flowers.folder / "daisy/2024/may/1.jpg", 300)
    picture(flowers.folder / "daisy/_from phone/2.jpg", 301)
    assert flowers.reconcile().counts == {"daisy": 12, "roses": 10}


def test_hidden_temporary_and_set_aside_names_are_ignored(flowers: Flowers, seen: Snapshot) -> None:
    names = (
        "daisy/.hidden.jpg",
        "daisy/.thumbnails/1.jpg",
        "daisy/1.jpg.part",
        "daisy/1.jpg.CRDOWNLOAD",
        "daisy/1.jpg~",
        "daisy/@eaDir/1.jpg",
        ".trash/1.jpg",
        "_inbox/1.jpg",
        "loose.jpg",
    )
    for seed, name in enumerate(names, start=400):
        picture(flowers.folder / name, seed)
    (flowers.folder / "daisy/Thumbs.db").write_bytes(b"x")
    (flowers.folder / "model.toml").write_text("promotion = 'manual'\n")
    after = flowers.reconcile()
    assert after.snapshot_id == seen.snapshot_id
    assert (after.files_seen, after.files_opened) == (20, 0)
    assert [problem.kind for problem in after.problems] == ["not_in_a_class"]


def test_what_is_no_image_is_reported_once_read_and_never_touched(
    flowers: Flowers, problems: Problems
) -> None:
    notes = flowers.folder / "daisy/notes.txt"
    notes.write_text("not a picture")
    truncated = flowers.folder / "roses/cut.jpg"
    truncated.write_bytes(picture(flowers.away("whole.jpg"), 600).read_bytes()[:-300])
    (flowers.folder / "roses/empty.jpg").touch()
    before = notes.stat()
    first = flowers.reconcile()
    assert first.counts == {"daisy": 10, "roses": 10}
    found = problems(first, "bad_image")
    assert found.keys() == {"daisy/notes.txt", "roses/cut.jpg", "roses/empty.jpg"}
    assert "truncated" in found["roses/cut.jpg"]
    assert all(found.values())
    again = flowers.reconcile()
    assert again.files_opened == 0
    assert problems(again, "bad_image") == found
    after = notes.stat()
    assert (after.st_mtime_ns, after.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)


def test_a_bad_image_is_tried_again_when_it_changes(flowers: Flowers, problems: Problems) -> None:
    file = flowers.folder / "daisy/late.jpg"
    whole = picture(flowers.away("whole.jpg"), 600).read_bytes()
    file.write_bytes(whole[:-300])
    assert problems(flowers.reconcile(), "bad_image")
    file.write_bytes(whole)
    after = flowers.reconcile()
    assert after.files_opened == 1
    assert after.counts["daisy"] == 11
    assert after.problems == ()


def test_an_image_too_large_is_tried_again_when_the_limit_is_raised(
    flowers: Flowers, problems: Problems
) -> None:
    small = flowers.reconcile(max_pixels=1000)
    assert len(problems(small, "bad_image")) == 20
    assert flowers.reconcile(max_pixels=1000).files_opened == 0
    assert len(flowers.reconcile(max_pixels=10_000).images) == 20
    assert flowers.reconcile(max_pixels=20_000).files_opened == 0


def test_a_file_whose_name_says_nothing_is_an_image_if_it_decodes(flowers: Flowers, copy: Copy) -> None:
    copy(picture(flowers.away("x.jpg"), 700), flowers.folder / "daisy/IMG 0001 (copy).backup")
    assert flowers.reconcile().counts["daisy"] == 11


def test_one_content_in_two_classes_is_left_out_and_both_paths_named(
    flowers: Flowers, seen: Snapshot, problems: Problems, copy: Copy
) -> None:
    copy(flowers.folder / "daisy/003.jpg", flowers.folder / "roses/copy.jpg")
    torn = flowers.reconcile()
    assert torn.counts == {"daisy": 9, "roses": 10}
    conflicts = problems(torn, "conflict")
    assert conflicts.keys() == {"daisy/003.jpg"}
    assert "roses/copy.jpg" in conflicts["daisy/003.jpg"]
    (flowers.folder / "roses/copy.jpg").unlink()
    assert flowers.reconcile().snapshot_id == seen.snapshot_id


def test_one_content_twice_in_a_class_counts_once(flowers: Flowers, seen: Snapshot, copy: Copy) -> None:
    copy(flowers.folder / "daisy/003.jpg", flowers.folder / "daisy/copy.jpg")
    after = flowers.reconcile()
    assert after.snapshot_id == seen.snapshot_id
    assert after.problems == ()


def test_small_classes_are_left_out_and_named(flowers: Flowers, problems: Problems) -> None:
    flowers.fill("tulips", 1, first_seed=200)
    (flowers.folder / "empty").mkdir()
    snapshot = flowers.reconcile()
    assert snapshot.classes == ("daisy", "roses")
    small = problems(snapshot, "small_class")
    assert small.keys() == {"empty", "tulips"}
    assert "1 usable image," in small["tulips"]


def test_a_class_with_held_out_images_only_is_left_out_and_named(
    flowers: Flowers, seen: Snapshot, problems: Problems
) -> None:
    for image in seen.on(Split.TRAIN):
        if image.label == "daisy":
            (flowers.folder / image.path).unlink()
    snapshot = flowers.reconcile()
    assert snapshot.classes == ("roses",)
    assert "held out" in problems(snapshot, "small_class")["daisy"]


def test_no_usable_class_is_a_snapshot_that_says_why(flowers: Flowers, problems: Problems) -> None:
    shutil.rmtree(flowers.folder)
    flowers.folder.mkdir()
    flowers.fill("daisy", 1)
    snapshot = flowers.reconcile()
    assert snapshot.images == ()
    assert problems(snapshot, "small_class").keys() == {"daisy"}
    shutil.rmtree(flowers.folder)
    assert problems(flowers.reconcile(accept_deletions=True), "unreadable").keys() == {"."}


def test_class_names_are_kept_verbatim(flowers: Flowers) -> None:
    for seed, name in enumerate(("Löwenzahn", "löwenzahn", "two words", "日本", "a\nb")):
        flowers.fill(name, 2, first_seed=800 + 2 * seed)
    assert {"Löwenzahn", "löwenzahn", "two words", "日本", "a\nb"} < set(flowers.reconcile().classes)


def test_names_that_are_not_utf8_are_reported(
    flowers: Flowers, seen: Snapshot, problems: Problems, copy: Copy
) -> None:
    shutil.copytree(flowers.folder / "daisy", flowers.folder / os.fsdecode(b"caf\xe9"))
    copy(flowers.folder / "daisy/003.jpg", flowers.folder / "daisy" / os.fsdecode(b"\xff.jpg"))
    after = flowers.reconcile()
    assert after.snapshot_id == seen.snapshot_id
    assert problems(after, "bad_name").keys() == {"caf\\xe9", "daisy/\\xff.jpg"}
    for problem in after.problems:
        (problem.where + problem.reason).encode()


def test_near_duplicates_take_their_groups_side(flowers: Flowers) -> None:
    shutil.rmtree(flowers.folder / "daisy")
    for seed in range(30):
        picture(flowers.folder / f"daisy/{seed}.jpg", seed)
    first = flowers.reconcile()
    for seed in range(30):
        picture(flowers.folder / f"daisy/{seed}-again.jpg", seed, quality=60)
    second = flowers.reconcile()
    assert second.counts["daisy"] == 60
    side = {image.path: image.split for image in second.images}
    assert all(side[f"daisy/{seed}.jpg"] == side[f"daisy/{seed}-again.jpg"] for seed in range(30))
    assert sides(first).items() <= sides(second).items()


def test_pipes_and_sockets_are_not_opened(flowers: Flowers, seen: Snapshot) -> None:
    os.mkfifo(flowers.folder / "daisy/pipe.jpg")
    assert flowers.reconcile().snapshot_id == seen.snapshot_id


def test_progress_counts_the_files_that_are_read(flowers: Flowers) -> None:
    told: list[tuple[int, int]] = []
    flowers.reconcile(on_progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 20) for done in range(1, 21)]


def test_a_cancelled_reconcile_keeps_what_it_read(flowers: Flowers) -> None:
    told: list[int] = []
    with pytest.raises(ReconcileCancelled):
        flowers.reconcile(on_progress=lambda done, total: told.append(done), cancelled=lambda: len(told) >= 7)
    assert flowers.catalog.last_snapshot_id("flowers") is None
    after = flowers.reconcile()
    assert after.files_opened == 13
    assert len(after.images) == 20


def test_models_do_not_share_what_is_known(flowers: Flowers, seen: Snapshot, tmp_path: Path) -> None:
    assert flowers.catalog.files("trees") == {}
    assert len(flowers.catalog.images("flowers")) == 20


@pytest.mark.usefixtures("permissions_hold")
def test_a_file_without_permission_is_reported_and_tried_again(flowers: Flowers, problems: Problems) -> None:
    file = flowers.folder / "daisy/003.jpg"
    file.chmod(0)
    assert problems(flowers.reconcile(), "unreadable").keys() == {"daisy/003.jpg"}
    file.chmod(0o644)
    assert flowers.reconcile().counts["daisy"] == 10
