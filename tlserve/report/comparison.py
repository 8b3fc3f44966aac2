"""The page that compares backbones on one folder: a sortable table and plots that answer to the reader.

The table is there without scripts; the plots are drawn by one small script inside the page.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Mapping
from typing import Any

from tlserve.report import words
from tlserve.report.choice import COSTS, Choice, choose, pareto_front
from tlserve.report.reading import Json, number, objects, text, whole
from tlserve.report.templates import environment, included

__all__ = ["Choice", "choose", "render_comparison"]

SCRIPT = "comparison.js"


def render_comparison(comparison: Mapping[str, Any]) -> str:
    """One self-contained HTML page about the backbones of `tlserve compare`.

    comparison: model, n_images, n_classes, created, device and `rows`, one for each backbone; any value may
    be missing. A row with an `error` is listed with it and left out of the plots.
    """
    model = text(comparison.get("model"))
    found = objects(comparison.get("rows"))
    choice = choose(found)
    rows = [_row(one, model, choice) for one in found]
    rows.sort(key=lambda row: (row["error"] != "", -(row["accuracy"] or 0.0), row["backbone"]))
    return (
        environment()
        .get_template("comparison.html")
        .render(
            model=model,
            n_images=whole(comparison.get("n_images")),
            n_classes=whole(comparison.get("n_classes")),
            created=words.moment(text(comparison.get("created"))),
            device=text(comparison.get("device")),
            choice=choice,
            choice_row=next((row for row in rows if row["is_choice"]), None),
            rows=rows,
            plotted={
                "rows": [row for row in rows if not row["error"] and row["accuracy"] is not None],
                "fronts": {cost: pareto_front(found, cost) for cost in COSTS},
            },
            script_digest=_digest(included(SCRIPT)),
        )
    )


def _row(one: Json, model: str, choice: Choice | None) -> dict[str, Any]:
    """A row as template and script read it; numbers that are missing are None."""
    backbone = text(one.get("backbone"))
    numbers = (
        "n_parameters",
        "accuracy",
        "accuracy_low",
        "accuracy_high",
        "extract_seconds",
        "images_per_second",
        "train_seconds",
        "predict_ms",
        "graph_mb",
        "row_width",
    )
    return {name: number(one.get(name)) for name in numbers} | {
        "backbone": backbone,
        "licence": text(one.get("licence")),
        "head": text(one.get("head")),
        "error": text(one.get("error")),
        "is_live": bool(one.get("live")),
        "is_choice": choice is not None and backbone == choice.backbone,
        "command": f"tlserve adopt {shlex.quote(model)} {shlex.quote(backbone)}",
    }


def _digest(script: str) -> str:
    """What the page's policy names, so that only this script may run in it."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
