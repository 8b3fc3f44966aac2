"""A version's report as text for people: the decision, the classes, how it was trained, what could be mended.

Reports are JSON written by the trainer; what an older one lacks is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

from rich.table import Table
from rich.text import Text

from tlserve.cli import wording
from tlserve.cli.terminal import table

PROBLEMS_SHOWN = 20
PATHS_SHOWN = 3
"""Of each finding; the rest is in the long form and in `--json`."""
SUSPECTS_SHOWN = 10
_SEVERITY_STYLES = {"error": "red", "warning": "yellow"}


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
    yield from _making(report)
    yield from _pairs("Training", _untold(_part(report, "training")))
    yield from _pairs("Seconds", _part(report, "timeline"))
    yield from _mending(report)
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
        how = f", {backbone['precision']}" if backbone.get("precision") else ""
        how += ", fine-tuned here" if backbone.get("tuned_from") else ""
        yield Text(f"Backbone: {backbone.get('name')} (build {str(backbone.get('build'))[:12]}{how})")


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


def _making(report: Mapping[str, Any]) -> Iterator[Table | Text]:
    """How it learns and why so, in a line each, and what the alternatives would have given."""
    strategy, training = _part(report, "strategy"), _part(report, "training")
    if reason := strategy.get("reason"):
        chosen = _part(report, "plan").get("strategy") or strategy.get("strategy")
        yield Text(f"\nStrategy: {f'{chosen}: ' if chosen else ''}{reason}")
    if reason := _part(report, "tuning").get("reason"):
        yield Text(f"\nFine-tuning: {reason}")
    if heads := training.get("comparison"):
        yield Text()
        yield heads_table(heads)
        if choice := training.get("choice"):
            yield Text(f"Head: {choice}")
    yield from _augmentation(_part(report, "augmentation"))
    yield from _calibration(training)
    if reading := _part(report, "learning_curve").get("reading"):
        yield Text(f"Learning curve: {reading}")


def heads_table(heads: list[dict[str, Any]]) -> Table:
    """The heads that were compared, out of fold, the most accurate first."""
    headings = ("head", "accuracy", "nll", "ece", "time")
    rows = [
        (
            Text(f"{one['kind']} (chosen)", style="bold") if one.get("chosen") else one["kind"],
            wording.share(one.get("cv_accuracy")),
            _number(one.get("nll")),
            wording.share(one.get("ece")),
            wording.seconds(one.get("seconds")),
        )
        for one in sorted(heads, key=lambda one: -(one.get("cv_accuracy") or 0.0))
    ]
    return table(headings, rows, right=headings[1:])


def _augmentation(found: Mapping[str, Any]) -> Iterator[Text]:
    gain = found.get("gain")
    if gain is None:
        return
    error = found.get("standard_error")
    doubt = "" if error is None else f" (standard error {error * 100:.1f})"
    kept = "" if found.get("kept") is None else ", kept" if found["kept"] else ", not kept"
    reason = f": {found['reason']}" if found.get("reason") else ""
    yield Text(f"Augmentation: {gain * 100:+.1f} points{doubt}{kept}{reason}")


def _calibration(training: Mapping[str, Any]) -> Iterator[Text]:
    fold = _part(training, "out_of_fold")
    if fold.get("ece_before") is None or fold.get("ece_after") is None:
        return
    nll = ""
    if fold.get("nll_before") is not None and fold.get("nll_after") is not None:
        nll = f", NLL {_number(fold['nll_before'])} to {_number(fold['nll_after'])}"
    ece = f"ECE {wording.share(fold['ece_before'])} to {wording.share(fold['ece_after'])}"
    temperature = training.get("temperature")
    by = "" if temperature is None else f" by temperature {_short(temperature)}"
    yield Text(f"Calibration: {ece}{nll}{by}, out of fold")


def _mending(report: Mapping[str, Any]) -> Iterator[Text]:
    """What is amiss in the folder, and the images that probably lie in the wrong class."""
    findings = _part(report, "health").get("findings") or []
    if findings:
        yield Text("\nData health:")
    for one in findings:
        yield Text(f"  {one.get('sentence', '')}", style=_SEVERITY_STYLES.get(one.get("severity"), ""))
        yield from _places(one)
    suspects = report.get("mislabelled") or []
    if suspects:
        yield Text("\nMost suspicious images:")
    for one in suspects[:SUSPECTS_SHOWN]:
        yield Text(f"  {one['path']}: {one['given']} -> {one['suggested']}")
    yield from _more(len(suspects) - SUSPECTS_SHOWN)


def _places(finding: Mapping[str, Any]) -> Iterator[Text]:
    """The first paths of a finding; suspects are listed with their classes, by themselves."""
    if finding.get("kind") == "mislabelled":
        return
    paths, notes = finding.get("paths") or [], finding.get("notes") or []
    for path, note in zip_longest(paths[:PATHS_SHOWN], notes[:PATHS_SHOWN], fillvalue=""):
        yield Text(f"    {path}{f': {note}' if note else ''}")
    yield from _more((finding.get("count") or len(paths)) - PATHS_SHOWN, "    ")


def _more(n: int, indent: str = "  ") -> Iterator[Text]:
    if n > 0:
        yield Text(f"{indent}... and {n:,} more")


def _part(report: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of the report; empty where it is missing or null."""
    return report.get(name) or {}


def _number(value: float | None) -> str:
    return wording.NOTHING if value is None else f"{value:.3f}"


def _untold(training: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without what the comparison of heads and the calibration tell already."""
    told = {"choice", "kind"} if training.get("comparison") else set()
    return {name: value for name, value in training.items() if name not in told}


def _pairs(title: str, values: Mapping[str, Any]) -> Iterator[Text]:
    """Numbers and words on one line; what is nested is for `--json`."""
    flat = {name: value for name, value in values.items() if isinstance(value, str | int | float)}
    if flat:
        words = ", ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in flat.items())
        yield Text(f"\n{title}: {words}")


def _short(value: str | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _problems(report: Mapping[str, Any]) -> Iterator[Text]:
    """Problems that no finding of the data's health tells already."""
    told = {one.get("kind") for one in _part(report, "health").get("findings") or []}
    found = [one for one in report.get("problems") or [] if one.get("kind") not in told]
    total = len(found) if told else report.get("n_problems") or 0
    if total:
        yield Text(f"\n{wording.count(total, 'problem')} in the folder:", style="yellow")
        for one in found[:PROBLEMS_SHOWN]:
            yield Text(f"  {one['where']}: {one['reason']}")
        if total > PROBLEMS_SHOWN:
            yield Text("  ... more with --json")
