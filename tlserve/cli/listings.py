"""Commands that show what a running daemon knows: models, versions, report, backbones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from tlserve.cli import wording
from tlserve.cli.options import (
    ADDRESS_OPTION,
    DEFAULT_ADDRESS,
    Address,
    AsJson,
    ConfigFile,
    ModelName,
    connect,
)
from tlserve.cli.report import report_parts
from tlserve.cli.terminal import Listing, say, say_folded, show, show_json, show_listing, table
from tlserve.core.errors import Unavailable

if TYPE_CHECKING:
    from tlserve.rpc.backend import BackboneLine, ModelSummary, VersionLine


def models(address: Address = DEFAULT_ADDRESS, as_json: AsJson = False) -> None:
    """List the models: what each one does now, which version answers, and how good it is."""
    with connect(address) as client:
        found = client.models()
    if as_json:
        show_json(found)
    elif found:
        show_listing(models_listing(found))
        _say_problems(found)
    else:
        say("No models yet. Put a folder of class folders with images under the watch root.")


def versions(model: ModelName, address: Address = DEFAULT_ADDRESS, as_json: AsJson = False) -> None:
    """List the versions of a model, and why each one was promoted or held."""
    with connect(address) as client:
        found = client.versions(model)
    if as_json:
        show_json(found)
    elif found:
        show_listing(versions_listing(found))
    else:
        say(f"{model} has no version yet. See what it waits for: tlserve models")


def report(
    model: ModelName,
    version: Annotated[
        str, typer.Argument(metavar="VERSION", help="A number, `live` (if not given) or `previous`.")
    ] = "",
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Show how a version was trained and judged: the decision, its reason, and every class."""
    with connect(address) as client:
        found = client.report(model, version)
    if as_json:
        show_json(found)
        return
    for part in report_parts(found):
        show(part)


def backbones(
    address: Annotated[str | None, ADDRESS_OPTION] = None, config: ConfigFile = None, as_json: AsJson = False
) -> None:
    """List the feature extractors that the installed plugins offer, and what is wrong with broken ones.

    Without a daemon, the plugins installed here are asked.
    """
    found = ask_for_backbones(address, config)
    if as_json:
        show_json(found)
    elif found:
        show(backbones_table(found))
    else:
        say("The daemon has not listed its backbones yet; ask again in a moment.")


def ask_for_backbones(address: str | None, config: Path | None) -> Sequence[BackboneLine]:
    """From the daemon; from the plugins here where none runs and no address was given."""
    try:
        with connect(DEFAULT_ADDRESS if address is None else address) as client:
            return client.backbones()
    except Unavailable:
        if address is not None:
            raise
    from tlserve.app import survey_backbones_once
    from tlserve.rpc.backend import BackboneLine
    from tlserve.settings import load_settings

    say(f"No daemon answers at {DEFAULT_ADDRESS}; the plugins installed here were asked.")
    survey = survey_backbones_once(load_settings({}, config), ())
    return [BackboneLine(one.name, one.plugin, one.detail, one.error) for one in survey.offered]


def models_listing(found: Sequence[ModelSummary]) -> Listing:
    """Each model, and in words what it does or lacks."""
    headings = ("model", "live", "accuracy", "95 % interval", "images", "classes", "promotion", "phase")
    rows = [
        (
            one.model,
            wording.NOTHING if one.live is None else str(one.live),
            wording.share(one.accuracy),
            wording.interval(one.accuracy_low, one.accuracy_high),
            f"{one.images:,}",
            str(len(one.counts)),
            one.promotion,
            wording.phase(one.phase),
        )
        for one in found
    ]
    right = ("live", "accuracy", "images", "classes")
    return Listing(headings, rows, "message", [one.message for one in found], right)


def versions_listing(found: Sequence[VersionLine]) -> Listing:
    """Each version, and why it was promoted or held."""
    headings = ("version", "state", "accuracy", "images", "classes", "drop to live", "created")
    rows = [
        (
            f"{one.version}{' pinned' if one.pinned else ''}",
            wording.state(one.state),
            wording.share(one.accuracy),
            f"{one.images:,}",
            str(len(one.classes)),
            wording.seconds(one.drop_to_live_seconds),
            wording.local_time(one.created),
        )
        for one in found
    ]
    right = ("accuracy", "images", "classes", "drop to live")
    reasons = [f"{one.reason} (backbone {one.backbone})" for one in found]
    return Listing(headings, rows, "reason", reasons, right)


def backbones_table(found: Sequence[BackboneLine]) -> Table:
    rows = [
        (one.name, one.plugin, Text(one.error, style="red") if one.error else _short_detail(one.detail))
        for one in found
    ]
    return table(("backbone", "plugin", "detail"), rows)


def _short_detail(detail: str) -> str:
    """Without the object inside the package, which is the same in every row: that is for `--json`."""
    return detail.removeprefix("package ").partition(",")[0] if detail.startswith("package ") else detail


def _say_problems(found: Sequence[ModelSummary]) -> None:
    for one in found:
        if one.n_problems:
            say(
                Text(f"{one.model}: {wording.count(one.n_problems, 'problem')} in its folder", style="yellow")
            )
            for kind, where, why in one.problems[:10]:
                say_folded(f"{kind.replace('_', ' ')}: {where}: {why}", indent=2)
            if one.n_problems > 10:
                say(f"  ... all of them: tlserve models --json (the first {len(one.problems)} are kept)")
