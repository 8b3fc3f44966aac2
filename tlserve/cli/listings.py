"""Commands that show what a running daemon knows: models, versions, report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from tlserve.cli import wording
from tlserve.cli.backbones.showing import SLOW_SECONDS, said_if_slow
from tlserve.cli.options import DEFAULT_ADDRESS, Address, AsJson, ModelName, connect
from tlserve.cli.pages import AsPage, Opens, PageFile, check_place, open_page, write_page
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
    *,
    as_page: AsPage = False,
    out: PageFile = None,
    opens: Opens = True,
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Show how a version was trained and judged: the decision, its reason, and every class.

    With --html (or --out) as a page with pictures and plots, whose path goes to stdout.
    """
    if as_page or out is not None:
        if as_json:
            raise typer.BadParameter("give either this or --html", param_hint="--json")
        _show_page(model, version, address, out, opens=opens)
        return
    with connect(address) as client:
        found = client.report(model, version)
    if as_json:
        show_json(found)
        return
    for part in report_parts(found):
        show(part)


def _show_page(model: str, version: str, address: str, out: Path | None, *, opens: bool) -> None:
    check_place(out)
    with (
        # It may have to be written first, behind a pass that is under way.
        connect(address, timeout_seconds=None) as client,
        said_if_slow(["The page is being written; a pass that is under way goes first."], SLOW_SECONDS),
    ):
        page = client.report_page(model, version)
    path = write_page(page, out, f"{model}-{version or 'live'}")
    show(str(path))
    if opens and not open_page(path):
        say("No browser can be opened here; open that file in yours.")


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
    return Listing(headings, rows, "message", [_message(one) for one in found], right)


def _message(one: ModelSummary) -> str:
    if not one.wanted_backbone:
        return one.message
    return f"{one.message}; its next version learns on {one.wanted_backbone}, not {one.backbone}"


def versions_listing(found: Sequence[VersionLine]) -> Listing:
    """Each version, and why it was promoted or held."""
    headings = ("version", "state", "accuracy", "images", "classes", "drop to live", "created")
    rows = [
        (
            f"{one.version}{' pinned' if one.pinned else ''}{' fast' if one.instant else ''}",
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
    reasons = [f"{one.reason} (backbone {one.backbone}){_timeline(one)}" for one in found]
    return Listing(headings, rows, "reason", reasons, right)


def _timeline(one: VersionLine) -> str:
    """Where the seconds from the drop to the answer went, of versions that a drop brought."""
    if one.drop_to_live_seconds is None:
        return ""
    return "; " + ", ".join(f"{step} {wording.seconds(spent)}" for step, spent in one.timeline.items())


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
