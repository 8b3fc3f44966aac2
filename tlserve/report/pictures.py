"""Pictures worth a look and the health of the data: what a person can mend, with the files that show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest

from tlserve.report.reading import Json, first, number, objects, part, text, texts, whole
from tlserve.report.thumbnails import Thumbnail, Thumbnails

PICTURES_SHOWN = 18
PATHS_SHOWN = 50
PROBLEMS_SHOWN = 100

_TONES: Mapping[str, tuple[int, str, str]] = {
    "error": (0, "bad", "not used"),
    "warning": (1, "warn", "worth a look"),
    "info": (2, "quiet", "good to know"),
}


@dataclass(frozen=True, slots=True)
class Picture:
    """A thumbnail with what is said below it."""

    path: str
    thumbnail: Thumbnail
    truth: str
    """The folder in which it lies."""
    answer: str
    """The class that the model would give it."""
    probability: float | None
    """Of its answer, as the model sees it."""
    truth_probability: float | None = None
    """Of the folder's class."""
    side: str = ""


@dataclass(frozen=True, slots=True)
class Pictures:
    shown: list[Picture]
    n_more: int


@dataclass(frozen=True, slots=True)
class Finding:
    kind: str
    rank: int
    """0 is the most severe."""
    tone: str
    severity: str
    sentence: str
    count: int
    paths: list[tuple[str, str]]
    """With what there is to say of each."""

    @property
    def n_more(self) -> int:
        return max(0, self.count - len(self.paths))


def mislabelled(report: Json, thumbnails: Thumbnails) -> Pictures | None:
    """Pictures that may lie in the wrong folder, the most suspicious first."""
    found = objects(report.get("mislabelled"))
    shown = [
        Picture(
            path=text(one.get("path")),
            thumbnail=thumbnails.of(text(one.get("path"))),
            truth=text(one.get("given")),
            answer=text(one.get("suggested")),
            probability=None,
        )
        for one in found[:PICTURES_SHOWN]
    ]
    return Pictures(shown, len(found) - len(shown)) if shown else None


def hardest(report: Json, thumbnails: Thumbnails, above: Pictures | None) -> Pictures | None:
    """Images on which the model was most wrong, without those that stand above as suspicious."""
    told = {one.path for one in above.shown} if above else set()
    found = [one for one in objects(report.get("hardest")) if text(one.get("path")) not in told]
    shown = [
        Picture(
            path=text(one.get("path")),
            thumbnail=thumbnails.of(text(one.get("path"))),
            truth=text(one.get("label")),
            answer=text(first(one, "predicted", "answer")),
            probability=number(one.get("confidence")),
            truth_probability=number(one.get("probability")),
            side=text(one.get("side")).replace("_", " "),
        )
        for one in found[:PICTURES_SHOWN]
    ]
    return Pictures(shown, len(found) - len(shown)) if shown else None


def findings(report: Json) -> list[Finding]:
    """What the health check found, the most severe first."""
    return sorted(map(_finding, objects(part(report, "health").get("findings"))), key=lambda one: one.rank)


def _finding(one: Json) -> Finding:
    severity = text(one.get("severity"))
    paths, notes = texts(one.get("paths"))[:PATHS_SHOWN], texts(one.get("notes"))
    rank, tone, said = _TONES.get(severity.lower(), (1, "warn", severity))
    return Finding(
        kind=text(one.get("kind")),
        rank=rank,
        tone=tone,
        severity=said,
        sentence=text(one.get("sentence")),
        count=whole(one.get("count")),
        paths=list(zip_longest(paths, notes[: len(paths)], fillvalue="")),
    )


@dataclass(frozen=True, slots=True)
class Problems:
    rows: list[tuple[str, str]]
    """Where and why."""
    n: int


def problems(report: Json) -> Problems | None:
    """Files and folders that could not be used, unless the health check tells of them already."""
    found = objects(report.get("problems"))
    told = {one.kind for one in findings(report)}
    untold = [one for one in found if text(one.get("kind")) not in told]
    n = len(untold) if told else max(whole(report.get("n_problems")), len(found))
    rows = [(text(one.get("where")), text(one.get("reason"))) for one in untold[:PROBLEMS_SHOWN]]
    return Problems(rows, n) if n else None
