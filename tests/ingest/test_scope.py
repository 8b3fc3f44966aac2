"""What belongs to a touched path, and lists in order of path."""

from __future__ import annotations

import pytest

from tlserve.ingest.names import above, is_inside
from tlserve.ingest.ordered import ANEW_FROM_SHARE, below, edit
from tlserve.ingest.scope import EVERYTHING, Scope


def test_a_folder_stands_for_all_it_holds() -> None:
    scope = Scope(["daisy", "roses/deep/1.jpg"])
    assert all(path in scope for path in ("daisy", "daisy/1.jpg", "daisy/a/b.jpg", "roses/deep/1.jpg"))
    assert not any(path in scope for path in ("daisy2", "daisy.jpg", "roses", "roses/deep", "roses/1.jpg"))
    assert not scope.is_above("daisy")
    assert not scope.is_everything


def test_what_lies_below_another_is_not_looked_at_twice() -> None:
    assert Scope(["daisy/1.jpg", "daisy", "daisy2/1.jpg", "daisy/a/b"]).paths == ["daisy", "daisy2/1.jpg"]


def test_everything_holds_every_path() -> None:
    assert EVERYTHING.is_everything
    assert "daisy/1.jpg" in EVERYTHING
    assert EVERYTHING.is_above("daisy")
    assert "daisy" not in Scope([])


def test_the_folders_above_a_path() -> None:
    assert list(above("a/b/c.jpg")) == ["a", "a/b"]
    assert list(above("a")) == []


@pytest.mark.parametrize("path", ["", ".", "..", "/a", "a/", "a//b", "a/../b", "./a"])
def test_a_path_that_a_walk_would_not_write(path: str) -> None:
    assert not is_inside(path)
    assert is_inside("a/b..c/.d")


@pytest.mark.parametrize("n_items", [20, 10 * ANEW_FROM_SHARE])
def test_a_list_stays_in_order_whatever_its_length(n_items: int) -> None:
    items = [f"{number:06}" for number in range(0, 2 * n_items, 2)]
    out, new = ["000004", "000000"], ["000003", "999999", "000000x"]
    expected = sorted([*(item for item in items if item not in out), *new])
    assert sorted(edit(items, out, new, str)) == sorted(out)
    assert items == expected


def test_what_lies_in_a_folder() -> None:
    paths = sorted(["a", "a/1", "a/b/2", "a.jpg", "a0", "a-b/1", "b/1"])
    assert below(paths, "a") == ["a/1", "a/b/2"]
    assert below(paths, "c") == []
