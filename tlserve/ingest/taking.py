"""From files that speak for their content to a snapshot: classes, sides, what differs from the last one.

Kept up to date change by change: what a change costs depends on the change and on the number of classes.
Nothing is read or stored here.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter

from tlserve.core.split import Tally
from tlserve.core.types import LabelledImage, Problem, Split
from tlserve.ingest.contents import Voices
from tlserve.ingest.names import label_of
from tlserve.ingest.ordered import edit
from tlserve.ingest.sides import GivenSides

SMALLEST_CLASS = 2

GiveSides = Callable[[Mapping[str, str], Mapping[str, Tally]], GivenSides]
"""(digest -> path of images without a side, tally of each class) -> their sides."""

_path_of = attrgetter("path")


def snapshot_id(images: Iterable[LabelledImage]) -> str:
    """Equal content, equal id, whatever the paths and the order.

    sha256 over the number of images and the sum, modulo 2^256, of the sha256 of each (digest, side, label):
    so the id of a snapshot follows from that of another and from what differs.
    """
    weights = [_weight(image) for image in images]
    return _identify(sum(weights), len(weights))


def _weight(image: LabelledImage) -> int:
    words = f"{image.digest}\0{image.split}\0{image.label}\0"
    return int.from_bytes(hashlib.sha256(words.encode()).digest())


def _identify(weight: int, n_images: int) -> str:
    return hashlib.sha256(f"{n_images} {weight % 2**256:064x}".encode()).hexdigest()


@dataclass(slots=True)
class _ClassImages:
    """The images of one class, one for each content."""

    images: list[LabelledImage] = field(default_factory=list)
    """Those that have a side, in order of path."""
    sideless: dict[str, str] = field(default_factory=dict)
    """digest -> path. Only a class that is too small has any."""
    n_held_out: int = 0
    weight: int = 0

    def __len__(self) -> int:
        return len(self.images) + len(self.sideless)

    @property
    def n_train(self) -> int:
        return len(self.images) - self.n_held_out

    @property
    def is_usable(self) -> bool:
        return self.n_train >= SMALLEST_CLASS

    @property
    def tally(self) -> Tally:
        return Tally(len(self), self.n_held_out)

    def change(self, out: list[str], new: list[LabelledImage]) -> list[LabelledImage]:
        """Returns the images that went."""
        removed = edit(self.images, out, new, _path_of)
        for sign, images in ((-1, removed), (1, new)):
            self.n_held_out += sign * sum(image.split is Split.HELD_OUT for image in images)
            self.weight += sign * sum(map(_weight, images))
        return removed


@dataclass(slots=True)
class _Difference:
    """Of one class."""

    added: list[LabelledImage] = field(default_factory=list)
    removed: list[LabelledImage] = field(default_factory=list)


Differences = dict[str, _Difference]
"""By class; of every class that changed in any way."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The usable images of a model, by class and path, and how they differ from those before."""

    snapshot_id: str
    images: tuple[LabelledImage, ...]
    counts: dict[str, int]
    new_sides: GivenSides
    """To be stored."""
    based_on: str | None
    added: tuple[LabelledImage, ...] = ()
    removed: tuple[LabelledImage, ...] = ()


class Taking:
    def __init__(self) -> None:
        self._classes: dict[str, _ClassImages] = {}
        self._usable: set[str] = set()
        self._images: tuple[LabelledImage, ...] = ()
        self._snapshot_id: str | None = None

    def take(self, voices: Voices, known_sides: Mapping[str, Split], give_sides: GiveSides) -> Taken:
        """known_sides: of the contents that found their voice, those that have one."""
        differences: Differences = {}
        self._silence(voices.silenced, differences)
        self._let_speak(voices.speaking, known_sides, differences)
        new_sides = self._give_sides(differences, give_sides)

        usable_before, based_on = self._usable, self._snapshot_id
        usable_now = {label for label in differences if self._classes[label].is_usable}
        self._usable = (usable_before - differences.keys()) | usable_now
        added, removed = self._compare(differences, usable_before) if based_on is not None else ((), ())
        for label in differences:
            if not self._classes[label]:
                del self._classes[label]
        usable = {label: self._classes[label] for label in sorted(self._usable)}
        if differences:
            self._images = tuple(chain.from_iterable(one.images for one in usable.values()))
        self._snapshot_id = _identify(sum(one.weight for one in usable.values()), len(self._images))
        counts = {label: len(one.images) for label, one in usable.items()}
        return Taken(self._snapshot_id, self._images, counts, new_sides, based_on, added, removed)

    def problems(self, classes: Iterable[str]) -> Iterator[Problem]:
        """classes: all class folders, those without images too."""
        for label in {*classes, *self._classes}:
            members = self._classes.get(label, _ClassImages())
            if len(members) < SMALLEST_CLASS:
                yield _small_class(label, f"{len(members)} usable image{'' if len(members) == 1 else 's'}")
            elif not members.is_usable:
                found = f"{members.n_train} of {len(members)} usable images to train on"
                yield _small_class(label, f"{found}, the others are held out for judging")

    # -- the steps

    def _silence(self, silenced: Mapping[str, str], differences: Differences) -> None:
        out: defaultdict[str, list[str]] = defaultdict(list)
        for digest, path in silenced.items():
            label = label_of(path)
            if self._classes[label].sideless.pop(digest, None) is None:
                out[label].append(path)
            else:
                differences.setdefault(label, _Difference())
        for label, paths in out.items():
            differences.setdefault(label, _Difference()).removed += self._classes[label].change(paths, [])

    def _let_speak(
        self, speaking: Mapping[str, str], known_sides: Mapping[str, Split], differences: Differences
    ) -> None:
        new: defaultdict[str, list[LabelledImage]] = defaultdict(list)
        for digest, path in speaking.items():
            label = label_of(path)
            side = known_sides.get(digest)
            if side is not None:
                new[label].append(LabelledImage(digest, label, side, path))
            else:
                self._class(label).sideless[digest] = path
                differences.setdefault(label, _Difference())
        for label, images in new.items():
            self._put(label, images, differences)

    def _give_sides(self, differences: Differences, give_sides: GiveSides) -> GivenSides:
        """Every image of a class that is large enough gets a side."""
        waiting = [
            label
            for label in differences
            if self._classes[label].sideless and len(self._classes[label]) >= SMALLEST_CLASS
        ]
        if not waiting:
            return {}
        tallies = {label: one.tally for label, one in self._classes.items() if len(one) >= SMALLEST_CLASS}
        newcomers = {d: path for label in waiting for d, path in self._classes[label].sideless.items()}
        sides = give_sides(newcomers, tallies)
        for label in waiting:
            sideless, self._classes[label].sideless = self._classes[label].sideless, {}
            images = [
                LabelledImage(digest, label, sides[digest][0], path) for digest, path in sideless.items()
            ]
            self._put(label, images, differences)
        return sides

    def _put(self, label: str, images: list[LabelledImage], differences: Differences) -> None:
        self._class(label).change([], images)
        differences.setdefault(label, _Difference()).added += images

    def _class(self, label: str) -> _ClassImages:
        return self._classes.setdefault(label, _ClassImages())

    def _compare(
        self, differences: Differences, usable_before: set[str]
    ) -> tuple[tuple[LabelledImage, ...], tuple[LabelledImage, ...]]:
        """(added, removed); a file that was merely renamed in its class is in neither."""
        added: dict[tuple[str, str, Split], LabelledImage] = {}
        removed: dict[tuple[str, str, Split], LabelledImage] = {}
        for label, difference in differences.items():
            images = self._classes[label].images
            match label in usable_before, label in self._usable:
                case True, True:
                    came, went = difference.added, difference.removed
                case True, False:
                    new = {image.path for image in difference.added}
                    came, went = [], [*difference.removed, *(one for one in images if one.path not in new)]
                case False, True:
                    came, went = images, []
                case _:
                    continue
            added.update((_meaning(image), image) for image in came)
            removed.update((_meaning(image), image) for image in went)
        for same in added.keys() & removed.keys():
            del added[same], removed[same]
        return tuple(added.values()), tuple(removed.values())


def _meaning(image: LabelledImage) -> tuple[str, str, Split]:
    return image.digest, image.label, image.split


def _small_class(label: str, found: str) -> Problem:
    return Problem("small_class", label, f"{found}, at least {SMALLEST_CLASS} needed; the class is left out")
