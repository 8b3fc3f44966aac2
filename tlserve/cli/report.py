"""A version's report as text for people: the decision, the classes, how it was trained, where time went.

Reports are JSON written by the trainer; what an older one lacks is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from tlserve.cli import wording
from tlserve.cli.terminal import table

PROBLEMS_SHOWN = 20


def report_parts(report: Mapping[str, Any]) -> Iterator[Table | Text]:
    """The parts of a report, top down."""
    yield from _head(report)
    decision = report.get("decision", {})
    if decision.get("classes"):
        yield Text()
        yield classes_table(decision["classes"], report.get("images", {}).get("counts", {}))
    for side, label in (("only_candidate", "New against the live version"), ("only_live", "No longer known")):
        if decision.get(side):
            yield Text(f"{label}: {', '.join(decision[side])}")
    yield from _pairs("Training", report.get("training", {}))
    yield from _pairs("Seconds", report.get("timeline", {}))
    yield from _problems(report)


def _head(report: Mapping[str, Any]) -> Iterator[Text]:
    decision, images = report.get("decision", {}), report.get("images", {})
    yield Text(f"{report.get('model', '')}: {decision.get('reason', 'no decision recorded')}", style="bold")
    verdict, evidence = decision.get("verdict"), decision.get("evidence")
    if verdict:
        yield Text(f"Verdict: {verdict} ({evidence} evidence)")
    if decision.get("accuracy") is not None:
        spread = wording.interval(decision.get("accuracy_low"), decision.get("accuracy_high"))
        held_out = wording.count(decision.get("n_held_out", 0), "held-out image")
        yield Text(f"Accuracy: {wording.share(decision['accuracy'])} on {held_out} (95 % interval {spread})")
    if images:
        yield Text(
            f"Images: {images.get('train', 0):,} to learn from, {images.get('held_out', 0):,} held out"
        )
    if backbone := report.get("backbone"):
        yield Text(f"Backbone: {backbone.get('name')} (build {str(backbone.get('build'))[:12]})")


def classes_table(classes: list[dict[str, Any]], counts: Mapping[str, int]) -> Table:
    """Recall of each class, the weakest first: that is where more images help most."""
    headings = ("class", "recall", "live version", "held out", "images")
    rows = [
        (
            one["label"],
            wording.share(one["recall"]),
            wording.share(one.get("live_recall")),
            f"{one['n_held_out']:,}",
            f"{counts.get(one['label'], 0):,}",
        )
        for one in sorted(classes, key=lambda one: (one["recall"], one["label"]))
    ]
    return table(headings, rows, right=headings[1:])


def _pairs(title: str, values: Mapping[str, Any]) -> Iterator[Text]:
    """Numbers and words on one line; what is nested is for `--json`."""
    flat = {name: value for name, value in values.items() if isinstance(value, str | int | float)}
    if flat:
        words = ", ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in flat.items())
        yield Text(f"\n{title}: {words}")


def _short(value: str | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _problems(report: Mapping[str, Any]) -> Iterator[Text]:
    total = report.get("n_problems", 0)
    if total:
        yield Text(f"\n{wording.count(total, 'problem')} in the folder:", style="yellow")
        for one in report.get("problems", [])[:PROBLEMS_SHOWN]:
            yield Text(f"  {one['where']}: {one['reason']}")
        if total > PROBLEMS_SHOWN:
            yield Text("  ... more with --json")
