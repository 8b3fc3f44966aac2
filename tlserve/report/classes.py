"""What the scores say of the classes: how well each is known, and what is taken for what.

Each function reads one part of a report and returns what the page shows of it, or None where it is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tlserve.core.judge import wilson_interval
from tlserve.report import charts, words
from tlserve.report.reading import Json, first, items, number, objects, part, text, texts, whole

CLASSES_OPEN = 15
"""So many classes stand in the table at once; more are folded."""
CLASSES_SHOWN = 100
MATRIX_CLASSES = 20
"""The largest confusion matrix that a person can still read."""
PAIRS_SHOWN = 15
SIDES = {
    "held_out": "held-out images",
    "out_of_fold": "training images, each judged by a model that had not seen it",
}


@dataclass(frozen=True, slots=True)
class ClassRow:
    label: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int
    images: int | None
    live_recall: float | None
    strip: Markup


@dataclass(frozen=True, slots=True)
class ClassTable:
    rows: list[ClassRow]
    n_more: int
    """Classes that are left out, all better than those shown."""
    scale: str
    """What the ends of the strips mean."""
    has_live: bool
    has_precision: bool

    @property
    def first(self) -> list[ClassRow]:
        return self.rows[:CLASSES_OPEN]

    @property
    def rest(self) -> list[ClassRow]:
        return self.rows[CLASSES_OPEN:]


@dataclass(frozen=True, slots=True)
class Cell:
    count: int
    fill: int
    """Percent of full colour; the template changes the text's colour where it would be hard to read."""
    is_right: bool
    title: str


@dataclass(frozen=True, slots=True)
class Pair:
    truth: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True, slots=True)
class Confusion:
    side: str
    n: int
    n_wrong: int
    n_classes: int
    labels: list[str]
    rows: list[list[Cell]]
    """Empty where there are too many classes to draw."""
    pairs: list[Pair]


def class_table(report: Json) -> ClassTable | None:
    """The classes, the weakest first; from the held-out scores, else from the decision."""
    decided = {text(one.get("label")): one for one in objects(part(report, "decision").get("classes"))}
    scored = objects(part(report, "evaluation", "held_out").get("classes"))
    found = scored or [{**one, "support": one.get("n_held_out")} for one in decided.values()]
    if not found:
        return None
    found = sorted(found, key=_weakest_first)
    recalls = [_recall(one, decided) for one in found[:CLASSES_SHOWN]]
    scale = charts.Scale.of(value for one in recalls for value in one)
    counts = part(report, "images", "counts")
    rows = [
        _class_row(one, scale.strip(recall, low, high, other=live), live, counts)
        for one, (recall, low, high, live) in zip(found, recalls, strict=False)
    ]
    return ClassTable(
        rows=rows,
        n_more=len(found) - len(rows),
        scale=str(scale),
        has_live=any(row.live_recall is not None for row in rows),
        has_precision=bool(scored),
    )


def _class_row(one: Json, strip: Markup, live_recall: float | None, counts: Json) -> ClassRow:
    label = text(one.get("label"))
    return ClassRow(
        label=label,
        precision=number(one.get("precision")),
        recall=number(one.get("recall")),
        f1=number(one.get("f1")),
        support=whole(one.get("support")),
        images=whole(counts[label]) if label in counts else None,
        live_recall=live_recall,
        strip=strip,
    )


def _recall(one: Json, decided: Mapping[str, Json]) -> tuple[float | None, ...]:
    """Recall, both ends of its interval, and the live version's recall."""
    recall, support = number(one.get("recall")), whole(one.get("support"))
    live = number(decided.get(text(one.get("label")), {}).get("live_recall"))
    if recall is None or not support:
        return recall, None, None, live
    return recall, *wilson_interval(round(recall * support), support), live


def _weakest_first(one: Json) -> tuple[float, str]:
    recall = number(one.get("recall"))
    return (2.0 if recall is None else recall, text(one.get("label")))


def confusions(report: Json) -> list[Confusion]:
    """What is taken for what: on the held-out pictures, then out of fold."""
    found = (_confusion(SIDES[side], part(report, "evaluation", side)) for side in SIDES)
    return [one for one in found if one is not None]


def _confusion(side: str, scores: Json) -> Confusion | None:
    labels = texts(scores.get("labels"))
    table = [[whole(cell) for cell in items(row)] for row in items(scores.get("confusion"))]
    if not labels or [len(row) for row in table] != [len(labels)] * len(labels):
        return _pairs_alone(side, scores)
    n, is_small = sum(map(sum, table)), len(labels) <= MATRIX_CLASSES
    return Confusion(
        side=side,
        n=n,
        n_wrong=n - sum(row[at] for at, row in enumerate(table)),
        n_classes=len(labels),
        labels=labels if is_small else [],
        rows=_cells(labels, table) if is_small else [],
        pairs=confused_pairs(labels, table)[:PAIRS_SHOWN],
    )


def _pairs_alone(side: str, scores: Json) -> Confusion | None:
    """With very many classes the scores hold no matrix, only the commonest mistakes."""
    support = {text(one.get("label")): whole(one.get("support")) for one in objects(scores.get("classes"))}
    pairs = []
    for one in objects(scores.get("confused"))[:PAIRS_SHOWN]:
        truth, n = text(one.get("label")), whole(one.get("count"))
        share = n / support[truth] if support.get(truth) else 0.0
        pairs.append(Pair(truth, text(one.get("answer")), n, share))
    n, accuracy = whole(first(scores, "n", "n_images")), number(scores.get("accuracy"))
    if not pairs or accuracy is None:
        return None
    return Confusion(side, n, round(n * (1 - accuracy)), len(support), [], [], pairs)


def confused_pairs(labels: Sequence[str], table: Sequence[Sequence[int]]) -> list[Pair]:
    """Which class is taken for which other, the most frequent first. table: rows are the truth."""
    pairs = [
        Pair(labels[truth], labels[predicted], n, n / sum(row))
        for truth, row in enumerate(table)
        for predicted, n in enumerate(row)
        if n and predicted != truth
    ]
    return sorted(pairs, key=lambda pair: (-pair.count, -pair.share, pair.truth, pair.predicted))


def _cells(labels: Sequence[str], table: Sequence[Sequence[int]]) -> list[list[Cell]]:
    return [
        [
            Cell(
                n,
                _fill(n, sum(row), at == column),
                at == column,
                f"{words.count(n)} of {words.count(sum(row), 'image')} of {labels[at]}"
                + (" recognised" if at == column else f" taken for {labels[column]}"),
            )
            for column, n in enumerate(row)
        ]
        for at, row in enumerate(table)
    ]


def _fill(n: int, total: int, is_right: bool) -> int:
    """Mistakes are few: their colour rises with the root, so that small ones can be seen."""
    if not n or not total:
        return 0
    share: float = n / total
    return round(100 * (share if is_right else share**0.5))
