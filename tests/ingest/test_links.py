"""Symbolic links are skipped and counted, unless they are to be followed; circles are survived."""

from __future__ import annotations

from collections.abc import Callable

from tests.ingest.model_folder import Flowers, picture
from tlserve.core.types import Snapshot
from tlserve.ingest import model_folders

Problems = Callable[[Snapshot, str], dict[str, str]]


def test_links_are_skipped_and_counted(flowers: Flowers, seen: Snapshot, problems: Problems) -> None:
    target = picture(flowers.away("elsewhere/1.jpg"), 900)
    (flowers.folder / "daisy/link.jpg").symlink_to(target)
    (flowers.folder / "daisy/more").symlink_to(target.parent)
    (flowers.folder / "tulips").symlink_to(target.parent)
    after = flowers.reconcile()
    assert after.snapshot_id == seen.snapshot_id
    skipped = problems(after, "link_skipped")
    assert skipped.keys() == {"daisy", "tulips"}
    assert skipped["daisy"].startswith("2 symbolic links")


def test_links_are_followed_when_asked(flowers: Flowers, problems: Problems) -> None:
    picture(flowers.away("elsewhere/1.jpg"), 900)
    picture(flowers.away("elsewhere/2.jpg"), 901)
    single = picture(flowers.away("single.jpg"), 902)
    (flowers.folder / "daisy/link.jpg").symlink_to(single)
    (flowers.folder / "tulips").symlink_to(flowers.away("elsewhere"))
    (flowers.folder / "daisy/dangling.jpg").symlink_to(flowers.away("nothing"))
    snapshot = flowers.reconcile(follow_symlinks=True)
    assert snapshot.counts == {"daisy": 11, "roses": 10, "tulips": 2}
    assert problems(snapshot, "link_skipped").keys() == {"daisy/dangling.jpg"}
    assert flowers.reconcile(follow_symlinks=True).files_opened == 0


def test_circles_of_links_are_survived(flowers: Flowers, seen: Snapshot, problems: Problems) -> None:
    daisy = flowers.folder / "daisy"
    (daisy / "loop").symlink_to(daisy)
    (daisy / "up").symlink_to(flowers.folder)
    (daisy / "top").symlink_to("/")
    for name in ("a", "b"):
        (daisy / name).mkdir()
    (daisy / "a/to b").symlink_to(daisy / "b")
    (daisy / "b/to a").symlink_to(daisy / "a")
    after = flowers.reconcile(follow_symlinks=True)
    assert after.snapshot_id == seen.snapshot_id
    assert {"daisy/loop", "daisy/up", "daisy/top"} <= problems(after, "link_skipped").keys()


def test_a_link_to_itself_hides_nothing(flowers: Flowers, seen: Snapshot, problems: Problems) -> None:
    (flowers.folder / "loop").symlink_to("loop")
    (flowers.watch / "loop").symlink_to("loop")
    after = flowers.reconcile()
    assert after.snapshot_id == seen.snapshot_id
    assert problems(after, "unreadable").keys() == {"loop"}
    models, found = model_folders(flowers.watch, follow_symlinks=False)
    assert models == [flowers.folder.name]
    assert [problem.where for problem in found] == ["loop"]


def test_linked_models_need_leave_too(flowers: Flowers) -> None:
    elsewhere = flowers.away("trees")
    elsewhere.mkdir()
    (flowers.watch / "trees").symlink_to(elsewhere)
    assert model_folders(flowers.watch, follow_symlinks=True) == (["flowers", "trees"], [])
    models, skipped = model_folders(flowers.watch, follow_symlinks=False)
    assert models == ["flowers"]
    assert [(problem.kind, problem.where) for problem in skipped] == [("link_skipped", "trees")]


def test_folders_that_cannot_be_models_are_named(flowers: Flowers) -> None:
    for name in ("my flowers", "-x", "a" * 65, "_archive", ".git", "lost+found", "trees"):
        (flowers.watch / name).mkdir()
    (flowers.watch / "README.md").touch()
    models, bad = model_folders(flowers.watch, follow_symlinks=False)
    assert models == ["flowers", "trees"]
    assert {problem.where for problem in bad} == {"my flowers", "-x", "a" * 65}
    assert {problem.kind for problem in bad} == {"bad_name"}


def test_a_root_that_is_not_there_is_a_problem_not_a_crash(flowers: Flowers) -> None:
    models, bad = model_folders(flowers.away("nothing"), follow_symlinks=False)
    assert models == []
    assert [problem.kind for problem in bad] == ["unreadable"]
