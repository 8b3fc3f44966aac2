"""The page of one version: a report and its pictures become one HTML file that needs nothing else.

Sections whose part is missing from the report (older versions, few pictures) are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tlserve.report import gains, making, pictures, trust, words
from tlserve.report.charts import bar
from tlserve.report.classes import class_table, confusions
from tlserve.report.glance import glance
from tlserve.report.reading import Json, number, part, text, texts, whole
from tlserve.report.templates import environment
from tlserve.report.thumbnails import Thumbnails

COUNTS_SHOWN = 100


def render_report(report: Mapping[str, Any], folder: Path) -> str:
    """One self-contained HTML page about one version.

    report: what `report.json` holds; any part may be missing. folder: the model's folder, from which the
    thumbnails are made; a file that is gone leaves a placeholder.
    """
    page = environment().get_template("report.html").render(_parts(report, Thumbnails(folder)))
    # Names that are no Unicode must not keep the page from being written.
    return page.encode("utf-8", "replace").decode("utf-8")


def _parts(report: Json, thumbnails: Thumbnails) -> dict[str, Any]:
    """What the template shows, by the names it has there; None or empty for a missing part."""
    classes, confused = class_table(report), confusions(report)
    # The suspicious ones first: where the bytes run out, they matter more.
    suspicious = pictures.mislabelled(report, thumbnails)
    decision = part(report, "decision")
    return {
        "model": text(report.get("model")),
        "version": whole(report.get("version")) or None,
        "created": words.moment(text(report.get("created"))),
        "glance": glance(report, classes, confused),
        "images": _images(report),
        "only_candidate": texts(decision.get("only_candidate")),
        "only_live": texts(decision.get("only_live")),
        "classes": classes,
        "confusions": confused,
        "calibration": trust.calibration(report),
        "curve": trust.curve(report),
        "strategy": making.strategy(report),
        "heads": making.heads(report),
        "augmentation": gains.augmentation(report),
        "mixup": gains.mixup(report),
        "tuning": gains.tuning(report),
        "mislabelled": suspicious,
        "hardest": pictures.hardest(report, thumbnails, suspicious),
        "findings": pictures.findings(report),
        "problems": pictures.problems(report),
        "timeline": _timeline(report),
        "backbone": _backbone(report),
    }


def _images(report: Json) -> Json | None:
    """How many pictures of each class there are, the fewest first."""
    images = part(report, "images")
    counts = {str(label): whole(n) for label, n in part(images, "counts").items()}
    if not images:
        return None
    most = max(counts.values(), default=0)
    ordered = sorted(counts.items(), key=lambda one: (one[1], one[0]))
    return {
        "train": whole(images.get("train")),
        "held_out": whole(images.get("held_out")),
        "n_classes": len(counts),
        "rows": [(label, n, bar(n / most if most else None)) for label, n in ordered[:COUNTS_SHOWN]],
        "n_more": max(0, len(ordered) - COUNTS_SHOWN),
    }


def _timeline(report: Json) -> list[tuple[str, str, Any]]:
    """The seconds of each phase, in the order in which they ran."""
    known = {
        words.spaced(str(name)): seconds
        for name, value in part(report, "timeline").items()
        if (seconds := number(value)) is not None
    }
    longest = max(known.values(), default=0)
    return [
        (name, words.seconds(value), bar(value / longest if longest > 0 else None, "quiet"))
        for name, value in known.items()
    ]


def _backbone(report: Json) -> Mapping[str, str] | None:
    names = ("name", "build", "precision", "tuned_from")
    found = {name: text(part(report, "backbone").get(name)) for name in names}
    return found if any(found.values()) else None
