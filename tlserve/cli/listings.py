"""Commands that show what a running daemon knows: models, versions, report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from tlserve.cli import wording
from tlserve.cli.options import DEFAULT_ADDRESS, Address, AsJson, ModelName, connect
from tlserve.cli.report import report_parts
from tlserve.cli.terminal import Listing, say, say_folded, show, show_json, show_listing

if TYPE_CHECKING:
    from tlserve.rpc.backend import ModelSummary, VersionLine


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
