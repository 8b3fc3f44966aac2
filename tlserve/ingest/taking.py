"""From files and their contents to a snapshot: conflicts, small classes, sides.

Pure: nothing is read or stored here.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tlserve.core.split import Member, assign_sides
from tlserve.core.types import LabelledImage, Problem, Split
from tlserve.ingest.catalog import KnownFile
from tlserve.ingest.groups import NearDuplicates
from tlserve.ingest.names import label_of

SMALLEST_CLASS = 2

Sides = dict[str, tuple[Split, str]]
"""digest -> (side, group of near duplicates)."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The usable images of a model, and what was left out. `new_sides` are to be stored."""

    images: tuple[LabelledImage, ...]
    new_sides: Sides
    problems: tuple[Problem, ...]


def take(
    files: Iterable[KnownFile],
    classes: Sequence[str],
    known_sides: Mapping[str, Split],
    groups: Callable[[], Mapping[str, Split]],
) -> Taken:
    """files: those that are images, in order of path; the first of equal contents speaks for them.

    classes: all class folders, those without images too.
    groups: the sides of all groups given out so far, asked for only when an image needs a side.
    """
    chosen, problems = _without_conflicts(files)
    per_class: dict[str, list[KnownFile]] = {label: [] for label in classes}
    for file in chosen:
        per_class.setdefault(label_of(file.path), []).append(file)
    for label, members in per_class.items():
        if len(members) < SMALLEST_CLASS:
            problems.append(
                _small_class(label, f"{len(members)} usable image{'' if len(members) == 1 else 's'}")
            )
    per_class = {label: members for label, members in per_class.items() if len(members) >= SMALLEST_CLASS}

    new_sides = _new_sides(per_class, known_sides, groups)
    images: list[LabelledImage] = []
    for label, members in sorted(per_class.items()):
        labelled = [
            LabelledImage(
                file.digest, label, known_sides.get(file.digest) or new_sides[file.digest][0], file.path
            )
            for file in members
        ]
        n_train = sum(image.split is Split.TRAIN for image in labelled)
        if n_train < SMALLEST_CLASS:
            found = (
                f"{n_train} of {len(labelled)} usable images to train on, the others are held out for judging"
            )
            problems.append(_small_class(label, found))
        else:
            images += labelled
    return Taken(tuple(images), new_sides, tuple(problems))


def snapshot_id(images: Iterable[LabelledImage]) -> str:
    """sha256 over the sorted (digest, label, split) triples, hex."""
    triples = sorted(f"{image.digest}\0{image.split}\0{image.label}\0" for image in images)
    return hashlib.sha256("".join(triples).encode()).hexdigest()


def _without_conflicts(files: Iterable[KnownFile]) -> tuple[list[KnownFile], list[Problem]]:
    """One file for each content, none for contents that lie in more than one class."""
    first: dict[str, KnownFile] = {}
    conflicts: defaultdict[str, list[str]] = defaultdict(list)
    for file in files:
        other = first.setdefault(file.digest, file)
        if other is not file and label_of(other.path) != label_of(file.path):
            conflicts[file.digest].append(file.path)
    problems = [
        Problem(
            "conflict",
            first[digest].path,
            f"the same image is also in {' and in '.join(paths)};"
            " left out of training until only one class has it",
        )
        for digest, paths in conflicts.items()
    ]
    return [file for digest, file in first.items() if digest not in conflicts], problems


def _new_sides(
    per_class: Mapping[str, Sequence[KnownFile]],
    known_sides: Mapping[str, Split],
    groups: Callable[[], Mapping[str, Split]],
) -> Sides:
    if all(file.digest in known_sides for members in per_class.values() for file in members):
        return {}
    group_sides = groups()
    near = NearDuplicates(group_sides)
    members = [
        # An image that has its side needs no group any more.
        Member(
            file.digest,
            label,
            "" if file.digest in known_sides else near.group_of(file.digest, file.fingerprint),
        )
        for label, files in sorted(per_class.items())
        for file in sorted(files, key=lambda file: file.digest)
    ]
    sides = assign_sides(members, known_sides, group_sides)
    return {
        member.digest: (sides[member.digest], member.group) for member in members if member.digest in sides
    }


def _small_class(label: str, found: str) -> Problem:
    return Problem("small_class", label, f"{found}, at least {SMALLEST_CLASS} needed; the class is left out")
