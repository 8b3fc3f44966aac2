"""All that is known of one model's folder, and how it follows a look at a part of it or at everything."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from tlserve.core.split import Tally
from tlserve.core.types import Problem, Split
from tlserve.ingest.catalog import OK, KnownFile
from tlserve.ingest.contents import Contents, Voices
from tlserve.ingest.names import label_of
from tlserve.ingest.ordered import below, edit
from tlserve.ingest.scope import Scope
from tlserve.ingest.sides import GivenSides, Newcomer, SideGiver
from tlserve.ingest.taking import Taking
from tlserve.ingest.walk import Stamp, Walk


@dataclass(slots=True)
class Sorting:
    """The files that a look found, or missed; those that are there as was known are in no list."""

    back: list[KnownFile] = field(default_factory=list)
    """Unchanged, but it was not known that they are there."""
    moved: list[KnownFile] = field(default_factory=list)
    """With the path they have now."""
    gone: list[str] = field(default_factory=list)
    to_read: dict[str, Stamp] = field(default_factory=dict)
    left: dict[str, Stamp] = field(default_factory=dict)
    """To be read, but not now."""


class Learnt(NamedTuple):
    """What came of a look."""

    voices: Voices
    gone: list[str]
    """Paths whose rows went."""
    untaken: list[str]
    """Paths of rows that no snapshot was taken from so far."""
    n_taken_before: int
    n_lost: int
    """How many of those images are nowhere now."""


@dataclass(slots=True)
class Knowledge:
    """All that is known of one model's folder. `rows` is the catalog's table, the rest follows from looks."""

    rows: dict[str, KnownFile]
    is_complete: bool = False
    """Whether a look has been made: until then nothing is known to be there."""
    around: Walk = field(default_factory=Walk)
    """All but the files: what was in the way, wherever it was."""
    stalled: dict[str, str] = field(default_factory=dict)
    """Files that are there and gave nothing: path -> why. Each look tries them again."""
    waiting: dict[str, Stamp] = field(default_factory=dict)
    """Files that are there and left for the next look to read."""
    contents: Contents = field(default_factory=Contents)
    """Of the files that are there and are images."""
    taking: Taking = field(default_factory=Taking)
    bad: dict[str, KnownFile] = field(init=False)
    """The rows of files that are no images."""
    n_taken: int = field(init=False)
    """How many images snapshots were built with: against them is measured what disappeared."""
    _order: list[str] | None = None
    _sides: SideGiver | None = None

    def __post_init__(self) -> None:
        self.bad = {path: file for path, file in self.rows.items() if file.verdict != OK}
        self.n_taken = sum(file.taken and file.verdict == OK for file in self.rows.values())

    def is_there(self, path: str) -> bool:
        """Whether a file is there with the content that its row tells of."""
        known = self.is_complete and path in self.rows
        return known and path not in self.stalled and path not in self.waiting

    def paths_in(self, scope: Scope) -> Iterator[str]:
        """The paths of the rows in a scope."""
        if self._order is None:
            self._order = sorted(self.rows)
        for path in scope.paths:
            if path in self.rows:
                yield path
            yield from below(self._order, path)

    def in_doubt(self) -> Iterator[str]:
        """What every look must look at, changed or not."""
        return chain(self.stalled, self.around.unlisted)

    def judged(self) -> Callable[[str], KnownFile | None]:
        """By digest: a file whose content was judged before."""
        if not self.is_complete:
            return {file.digest: file for file in self.rows.values() if file.digest}.get

        def find(digest: str) -> KnownFile | None:
            path = self.contents.a_holder(digest)
            return None if path is None else self.rows[path]

        return find

    def learn(
        self,
        found: Walk,
        sorting: Sorting,
        read: Collection[KnownFile],
        stalled: Mapping[str, str],
        vanished: Iterable[str],
    ) -> Learnt:
        """Take over what a look found, and what reading gave.

        stalled: files that gave nothing, and why; vanished: files that were gone when they were to be read.
        """
        new = [*sorting.moved, *read]
        gone = [*sorting.gone, *(path for path in vanished if path in self.rows)]
        changed = {*gone, *sorting.to_read, *sorting.left, *(file.path for file in sorting.moved)}
        left = [self.rows[path] for path in changed if self.is_there(path)]
        came = [*sorting.back, *new]
        voices = self.contents.change(filter(_is_image, left), filter(_is_image, came))
        went = self._change_rows(gone, new)
        lost = self._lost(went)
        looked_at_later = {path: self.stalled[path] for path in sorting.left if path in self.stalled}
        self.stalled = {**looked_at_later, **stalled}
        self.waiting = {path: stamp for path, stamp in sorting.left.items() if path not in looked_at_later}
        self._note(found)
        n_taken_before, self.n_taken = self.n_taken, len(self.rows) - len(self.bad)
        untaken = new if self.is_complete else self.rows.values()
        self.is_complete = True
        return Learnt(voices, gone, [file.path for file in untaken if not file.taken], n_taken_before, lost)

    def _lost(self, went: Iterable[KnownFile]) -> int:
        """How many of the files that went were images of a snapshot, and are nowhere now.

        Content counts, not paths: a renamed folder loses nothing. Nor does replaced content disappear: a
        person put something else there.
        """
        was_taken = [file for file in went if _is_image(file) and (self.is_complete or file.taken)]
        lost = [file for file in was_taken if file.digest not in self.contents]
        bad = {file.digest for file in self.bad.values()} if lost else set()
        return sum(file.digest not in bad for file in lost)

    def _change_rows(self, gone: Iterable[str], new: Collection[KnownFile]) -> list[KnownFile]:
        """Returns the rows that went."""
        went = [self.rows.pop(path) for path in gone]
        paths = [file.path for file in new if file.path not in self.rows]
        for file in went:
            self.bad.pop(file.path, None)
        for file in new:
            self.rows[file.path] = file
            if file.verdict == OK:
                self.bad.pop(file.path, None)
            else:
                self.bad[file.path] = file
        if self._order is not None:
            edit(self._order, [file.path for file in went], paths, str)
        return went

    def _note(self, found: Walk) -> None:
        """Remember what was in the way of a walk."""
        around, scope = self.around, found.scope

        def holds(path: str) -> bool:
            return "/" in path and path not in scope

        found.links |= set(filter(holds, around.links))
        found.odd |= {path: problem for path, problem in around.odd.items() if holds(path)}
        found.unlisted |= {path: why for path, why in around.unlisted.items() if holds(path)}
        found.files = {}
        self.around = found

    def give_sides(
        self,
        newcomers: Mapping[str, str],
        tallies: Mapping[str, Tally],
        groups: Callable[[], Mapping[str, Split]],
    ) -> GivenSides:
        """newcomers: digest -> path; groups: the sides of all groups, asked for once."""
        if self._sides is None:
            self._sides = SideGiver(groups())
        members = (
            Newcomer(label_of(path), digest, self.rows[path].fingerprint)
            for digest, path in newcomers.items()
        )
        return self._sides.give(members, tallies)

    def problems(self) -> Iterator[Problem]:
        yield from self.around.problems()
        for path, reason in self.stalled.items():
            yield Problem("unreadable", path, reason)
        for path, file in self.bad.items():
            if self.is_there(path):
                yield Problem("bad_image", path, file.verdict)
        yield from self.contents.problems()
        yield from self.taking.problems(self.around.classes)

    def n_files(self) -> int:
        """How many files are there."""
        others = chain(self.stalled, self.waiting)
        return len(self.rows) + sum(path not in self.rows for path in others)


def _is_image(file: KnownFile) -> bool:
    return file.verdict == OK
