"""What is amiss in a person's folders, gravest first: each finding in one sentence that says what to do.

Pure: the reconcile found the problems, the catalog the duplicates, and answers to images that a fit had not
seen the suspects; here they become findings. `dataclasses.asdict` gives JSON.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from tlserve.core.types import LabelledImage, Problem, Snapshot

PATHS_TOLD = 100
FEW_IMAGES = 20
"""A class with fewer is learnt, but poorly."""
EVEN = 3.0
"""The largest class may be this many times the smallest."""
TOO_MANY_SUSPECTS = 0.2
"""Where more than this share looks mislabelled, the model rather than the labels is to blame."""

Severity = Literal["error", "warning", "info"]
_GRAVEST_FIRST: tuple[Severity, ...] = ("error", "warning", "info")


@dataclass(frozen=True, slots=True)
class Alike:
    """Groups of images that show the same; the first groups only, but all are counted."""

    groups: tuple[tuple[str, ...], ...] = ()
    """Paths, relative to the model's folder; each group in order."""
    n_groups: int = 0
    n_images: int = 0
    """In all groups together."""


@dataclass(frozen=True, slots=True)
class Duplicates:
    """What lies in a folder more than once."""

    exact: Alike = Alike()
    """Files of equal content in one class: one of each is used. Those in several classes are conflicts."""
    near: Alike = Alike()
    """Images of one class that look the same."""
    near_across: Alike = Alike()
    """Images that look the same, but not all in one class."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """An image that probably belongs to another class."""

    position: int
    """Among the images that were looked at."""
    given: str
    suggested: str
    given_probability: float
    """What a fit that had not seen the image gives its class."""
    suggested_probability: float


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a person may want to mend."""

    kind: str
    """A `Problem`'s kind, or exact_duplicate | near_duplicate | near_conflict | imbalance | mislabelled."""
    severity: Severity
    """error: something is not used; warning: it probably costs accuracy; info: good to know."""
    sentence: str
    count: int
    paths: tuple[str, ...]
    """The first of them, relative to the model's folder; of some kinds, names of classes."""
    notes: tuple[str, ...]
    """What there is to say of each path."""


@dataclass(frozen=True, slots=True)
class DataHealth:
    """All findings about one snapshot."""

    snapshot_id: str
    n_images: int
    n_classes: int
    findings: tuple[Finding, ...]


def data_health(
    snapshot: Snapshot,
    duplicates: Duplicates,
    suspects: Sequence[Suspect] = (),
    looked_at: Sequence[LabelledImage] = (),
) -> DataHealth:
    """Everything that is known to be amiss.

    looked_at: the images to which the positions of `suspects` refer. Raises IndexError where they do not.
    """
    findings = [
        *_problems(snapshot.problems),
        *_few_images(snapshot.counts),
        *_imbalance(snapshot.counts),
        *_duplicates(duplicates),
        *_mislabelled(suspects, looked_at),
    ]
    findings.sort(key=lambda finding: _GRAVEST_FIRST.index(finding.severity))
    return DataHealth(snapshot.snapshot_id, len(snapshot.images), len(snapshot.counts), tuple(findings))


def _finding(
    kind: str, severity: Severity, sentence: str, count: int, places: Iterable[tuple[str, str]]
) -> Finding:
    told = list(islice(places, PATHS_TOLD))
    return Finding(
        kind, severity, sentence, count, tuple(path for path, _ in told), tuple(note for _, note in told)
    )


_KINDS: Mapping[str, tuple[Severity, str, str, str]] = {
    "unreadable": (
        "error",
        "file or folder could not be read",
        "files or folders could not be read",
        "check permissions and disk; what was known before is kept",
    ),
    "small_class": (
        "error",
        "class has too few images to learn from and is left out",
        "classes have too few images to learn from and are left out",
        "add images, at least 5 a class, so that one can be held out for judging",
    ),
    "bad_name": (
        "warning",
        "name cannot be used",
        "names cannot be used",
        "rename the files or folders",
    ),
    "bad_image": (
        "warning",
        "file cannot be decoded as an image and is left out",
        "files cannot be decoded as images and are left out",
        "replace with an intact copy, or remove",
    ),
    "conflict": (
        "warning",
        "image lies in more than one class and is left out",
        "images lie in more than one class and are left out",
        "keep each image in one class only",
    ),
    "not_in_a_class": (
        "warning",
        "place holds images outside any class folder",
        "places hold images outside any class folder",
        "move the images into the folder of their class",
    ),
    "link_skipped": (
        "info",
        "place holds links, which are not followed",
        "places hold links, which are not followed",
        "set follow_symlinks to use what they lead to",
    ),
}
"""kind -> severity, what one is, what several are, what to do."""


def _problems(problems: Iterable[Problem]) -> Iterator[Finding]:
    by_kind: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for problem in problems:
        by_kind[problem.kind].append((problem.where, problem.reason))
    for kind, places in by_kind.items():
        otherwise: tuple[Severity, str, str, str] = ("warning", kind, kind, "see the reason for each")
        severity, one, several, remedy = _KINDS.get(kind, otherwise)
        sentence = f"{len(places):,} {one if len(places) == 1 else several}: {remedy}."
        yield _finding(kind, severity, sentence, len(places), places)


def _few_images(counts: Mapping[str, int]) -> Iterator[Finding]:
    few = sorted((count, label) for label, count in counts.items() if count < FEW_IMAGES)
    if few:
        have = "class has" if len(few) == 1 else "classes have"
        sentence = f"{len(few):,} {have} fewer than {FEW_IMAGES} images: a few more help most there."
        places = ((label, _images(count)) for count, label in few)
        yield _finding("small_class", "warning", sentence, len(few), places)


def _imbalance(counts: Mapping[str, int]) -> Iterator[Finding]:
    if not counts:
        return
    most, largest = max((count, label) for label, count in counts.items())
    small = sorted((count, label) for label, count in counts.items() if most > EVEN * count)
    if small:
        fewest, smallest = small[0]
        sentence = (
            f"The class {largest!r} has {most / fewest:.3g} times as many images as {smallest!r} ({most:,} "
            f"against {fewest:,}): add images to the small classes, or the model will favour the large ones."
        )
        places = ((label, _images(count)) for count, label in small)
        yield _finding("imbalance", "warning", sentence, len(small), places)


def _duplicates(found: Duplicates) -> Iterator[Finding]:
    exact, near, across = found.exact, found.near, found.near_across
    if across.n_groups:
        groups = "group" if across.n_groups == 1 else "groups"
        sentence = (
            f"{_images(across.n_images)} in {across.n_groups:,} {groups} look the same but lie in different "
            "classes: check which class is right."
        )
        yield _finding("near_conflict", "warning", sentence, across.n_images, _whole_groups(across))
    if copies := exact.n_images - exact.n_groups:
        are = (
            "file is a copy of another in its class and does not count"
            if copies == 1
            else ("files are copies of others in their class and do not count")
        )
        sentence = f"{copies:,} {are}: delete them if you like, nothing changes."
        yield _finding("exact_duplicate", "info", sentence, copies, _copies(exact))
    if near.n_groups:
        groups = "group" if near.n_groups == 1 else "groups"
        sentence = (
            f"{_images(near.n_images)} in {near.n_groups:,} {groups} look the same: nothing to do, each "
            "group is either learnt or held out, so they do not flatter the accuracy; but they teach little."
        )
        yield _finding("near_duplicate", "info", sentence, near.n_images, _whole_groups(near))


def _whole_groups(alike: Alike) -> Iterator[tuple[str, str]]:
    for first, *others in alike.groups:
        yield first, f"looks like {', '.join(others)}"
        yield from ((other, f"looks like {first}") for other in others)


def _copies(alike: Alike) -> Iterator[tuple[str, str]]:
    for first, *others in alike.groups:
        yield from ((other, f"the same as {first}") for other in others)


def _mislabelled(suspects: Sequence[Suspect], looked_at: Sequence[LabelledImage]) -> Iterator[Finding]:
    if not suspects:
        return
    severity: Severity = "warning"
    sentence = (
        f"{len(suspects):,} images may lie in the wrong class: look through them, and move or remove those "
        "that do; the others are merely hard to tell."
        if len(suspects) > 1
        else "1 image may lie in the wrong class: look at it, and move or remove it if it does."
    )
    if len(suspects) > TOO_MANY_SUSPECTS * len(looked_at):
        severity = "info"
        sentence = (
            f"{_images(len(suspects))} of {len(looked_at):,} do not look like their class: with so many, the "
            "model is still too weak to tell; add images first."
        )
    places = (
        (
            looked_at[one.position].path,
            f"lies in {one.given!r}, looks like {one.suggested!r} ({one.suggested_probability:.0%})",
        )
        for one in suspects
    )
    yield _finding("mislabelled", severity, sentence, len(suspects), places)


def _images(count: int) -> str:
    return f"{count:,} image{'' if count == 1 else 's'}"
