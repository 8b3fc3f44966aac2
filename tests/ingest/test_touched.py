"""A look at what was touched, a full look with a memory and one without see the same, whatever happened."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ingest.model_folder import picture
from tlserve.core.errors import MassDisappearance
from tlserve.core.types import LabelledImage, Snapshot
from tlserve.ingest import Catalog, FolderMemory, ReconcileCancelled, ScanRules, reconcile
from tlserve.ingest.taking import snapshot_id

Seen = tuple[str, tuple[Any, ...]]


class Contents(list[bytes]):
    """What files are made of."""

    def __repr__(self) -> str:
        return f"{len(self)} contents"


class Garden:
    """A model's folder that is changed step by step, as a watcher would tell of it."""

    def __init__(self, root: Path, contents: Contents) -> None:
        self.root, self.contents = root, contents
        self.folder = root / "watch" / "flowers"
        self.folder.mkdir(parents=True)
        self.touched: set[str] = set()

    def put(self, path: str, content: int) -> None:
        file = self.folder / path
        if not self._is_reached_by_folders(file) or file.is_dir():
            return
        for parent in reversed(file.parents):
            if not parent.exists():
                parent.mkdir()
                self._touch(parent)
        file.unlink(missing_ok=True)
        file.write_bytes(self.contents[content % len(self.contents)])
        self._touch(file)

    def remove(self, path: str) -> None:
        target = self.folder / path
        if not self._is_reached_by_folders(target):
            return
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
        self._touch(target)

    def move(self, path: str, to: str) -> None:
        source, target = self.folder / path, self.folder / to
        reached = self._is_reached_by_folders(source) and self._is_reached_by_folders(target)
        free = not os.path.lexists(target) and target.parent.is_dir() and not to.startswith(path)
        if reached and free and os.path.lexists(source):
            source.rename(target)
            self._touch(source)
            self._touch(target)

    def link(self, path: str, to: str) -> None:
        link = self.folder / path
        if self._is_reached_by_folders(link) and link.parent.is_dir() and not os.path.lexists(link):
            link.symlink_to(self.folder / to)
            self._touch(link)

    def make_folder(self, path: str) -> None:
        folder = self.folder / path
        reached = self._is_reached_by_folders(folder)
        if reached and folder.parent.is_dir() and not os.path.lexists(folder):
            folder.mkdir()
            self._touch(folder)

    def _is_reached_by_folders(self, path: Path) -> bool:
        """Not through a link or a file: a watcher names the place where something really is."""
        parents = path.parents[: len(path.relative_to(self.folder).parts) - 1]
        return all(parent.is_dir() or not os.path.lexists(parent) for parent in parents) and not any(
            parent.is_symlink() for parent in parents
        )

    def _touch(self, path: Path) -> None:
        # What lies loose in the model's folder is not worth a hint, so the watcher tells of folders only.
        relative = path.relative_to(self.folder).as_posix()
        if path.parent != self.folder or relative in CLASSES:
            self.touched.add(relative)


CLASSES = ("daisy", "roses", "tulips", "1")
FOLDERS = (*CLASSES, "daisy/deep", "daisy/deep/er", "roses/deep", "roses/deep.jpg")
NAMES = ("1.jpg", "2.jpg", "3.jpg", "10.jpg", "deep.jpg", "é 4", ".hidden.jpg", "5.jpg.part")
FILES = tuple(f"{folder}/{name}" for folder, name in itertools.product(FOLDERS, NAMES))
LOOSE = ("loose.jpg", "model.toml", "_inbox/1.jpg")

files, places = st.sampled_from(FILES), st.sampled_from((*FILES, *FOLDERS))
contents = st.integers(0, 40)
steps = st.one_of(
    st.tuples(st.just("put"), files, contents),
    st.tuples(st.just("put"), files, contents),
    st.tuples(st.just("put"), st.sampled_from((*FILES, *LOOSE)), contents),
    st.tuples(st.just("remove"), places),
    st.tuples(st.just("move"), files, files),
    st.tuples(st.just("move"), st.sampled_from(FOLDERS), st.sampled_from(FOLDERS)),
    st.tuples(st.just("link"), places, places),
    st.tuples(st.just("make_folder"), st.sampled_from(FOLDERS)),
)
starts = st.lists(st.tuples(st.just("put"), files, contents), min_size=8, max_size=30)
looks = st.tuples(
    st.lists(steps, max_size=6),
    st.booleans(),  # whether deletions are accepted
    st.sampled_from((0, 0, 0, 1, 3)),  # how many files are read at most
)
RULES = ScanRules(max_pixels=10_000)


@pytest.fixture(scope="module")
def contents_of_files(tmp_path_factory: pytest.TempPathFactory) -> Contents:
    """Pictures, some saved again (near duplicates), and what is no picture."""
    folder = tmp_path_factory.mktemp("contents")
    pictures = [picture(folder / f"{seed}.jpg", seed).read_bytes() for seed in range(24)]
    again = [picture(folder / f"{seed}-.jpg", seed, quality=60).read_bytes() for seed in range(8)]
    return Contents([*pictures, *again, b"", b"no picture", pictures[0][:-300]])


class Eye:
    """One way to look at the garden, with a catalog of its own."""

    def __init__(self, garden: Garden, name: str, *, remembers: bool, hears: bool) -> None:
        self.garden, self.hears = garden, hears
        self.memory = FolderMemory() if remembers else None
        self.catalog = Catalog(garden.root / f"{name}.sqlite3")

    def look(self, *, accept_deletions: bool = True, most_unread: int = 0, cancel_after: int = 10**9) -> Seen:
        done: list[int] = []
        try:
            snapshot = reconcile(
                self.catalog,
                "flowers",
                self.garden.folder,
                RULES,
                memory=self.memory,
                touched=sorted(self.garden.touched) if self.hears else None,
                most_unread=most_unread,
                accept_deletions=accept_deletions,
                on_progress=lambda now, total: done.append(now),
                cancelled=lambda: len(done) >= cancel_after,
            )
        except MassDisappearance as held:
            return "held", (held.before, held.now)
        except ReconcileCancelled:
            return "cancelled", ()
        self.snapshot = snapshot
        assert snapshot.snapshot_id == snapshot_id(snapshot.images)
        # How it differs depends on what was remembered, and is asserted elsewhere.
        return "seen", (
            replace(snapshot, based_on=None, added=(), removed=()),
            snapshot.counts,
            self.catalog.files("flowers"),
            self.catalog.sides("flowers"),
            self.catalog.group_of_each("flowers"),
        )


def in_a_garden(contents: Contents, act: Callable[[Garden], None]) -> None:
    # In memory where there is such a place: hundreds of catalogs are made, and each is made durable.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as root:
        act(Garden(Path(root), contents))


def do(garden: Garden, steps: list[tuple[object, ...]]) -> None:
    for name, *values in steps:
        getattr(garden, str(name))(*values)


@settings(deadline=None, max_examples=50)
@given(start=starts, story=st.lists(looks, min_size=1, max_size=6))
def test_three_ways_to_look_see_the_same(
    contents_of_files: Contents,
    start: list[tuple[object, ...]],
    story: list[tuple[list[tuple[object, ...]], bool, int]],
) -> None:
    def act(garden: Garden) -> None:
        ways = [(True, True), (True, False), (False, False)]
        eyes = [
            Eye(garden, f"{number}", remembers=remembers, hears=hears)
            for number, (remembers, hears) in enumerate(ways)
        ]
        for changes, accept_deletions, most_unread in [(start, False, 0), *story, ([], True, 0)]:
            do(garden, changes)
            seen = [eye.look(accept_deletions=accept_deletions, most_unread=most_unread) for eye in eyes]
            assert seen[0] == seen[2]
            assert seen[1] == seen[2]
            if seen[0][0] == "seen":
                garden.touched.clear()
        for eye in eyes:
            eye.catalog.close()

    in_a_garden(contents_of_files, act)


@settings(deadline=None, max_examples=30)
@given(start=starts, changes=st.lists(steps, min_size=1, max_size=8), reads=st.integers(0, 4))
def test_a_look_that_was_cancelled_is_made_good_by_the_next(
    contents_of_files: Contents,
    start: list[tuple[object, ...]],
    changes: list[tuple[object, ...]],
    reads: int,
) -> None:
    def act(garden: Garden) -> None:
        hearing, other = (Eye(garden, f"{hears}", remembers=True, hears=hears) for hears in (True, False))
        do(garden, start)
        assert hearing.look() == other.look()
        garden.touched.clear()
        do(garden, changes)
        hearing.look(cancel_after=reads)
        assert without_effort(hearing.look()) == without_effort(other.look())
        for eye in (hearing, other):
            eye.catalog.close()

    in_a_garden(contents_of_files, act)


@settings(deadline=None, max_examples=30)
@given(start=starts, story=st.lists(looks, min_size=1, max_size=5))
def test_a_snapshot_says_how_it_differs_from_the_one_before(
    contents_of_files: Contents,
    start: list[tuple[object, ...]],
    story: list[tuple[list[tuple[object, ...]], bool, int]],
) -> None:
    def act(garden: Garden) -> None:
        eye = Eye(garden, "one", remembers=True, hears=True)
        before: Snapshot | None = None
        for changes, _, most_unread in [(start, True, 0), *story]:
            do(garden, changes)
            eye.look(most_unread=most_unread)
            garden.touched.clear()
            now = eye.snapshot
            if before is None:
                assert (now.based_on, now.added, now.removed) == (None, (), ())
            else:
                assert now.based_on == before.snapshot_id
                added, removed = meanings(now.added), meanings(now.removed)
                assert len(added) == len(now.added)
                assert len(removed) == len(now.removed)
                assert added == meanings(now.images) - meanings(before.images)
                assert removed == meanings(before.images) - meanings(now.images)
                assert set(now.added) <= set(now.images)
            before = now
        eye.catalog.close()

    in_a_garden(contents_of_files, act)


def without_effort(seen: Seen) -> tuple[object, ...]:
    """What was read before a look was cancelled is not read again."""
    _, (snapshot, *others) = seen
    return replace(snapshot, files_opened=0), *others


def meanings(images: tuple[LabelledImage, ...]) -> set[tuple[str, str, str]]:
    return {(image.digest, image.label, image.split) for image in images}
