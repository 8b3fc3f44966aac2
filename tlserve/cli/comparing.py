"""`tlserve compare`: one model's images through several backbones, as a table and as a page."""

from __future__ import annotations

import contextlib
import os
import shlex
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from tlserve.cli import wording
from tlserve.cli.backbones.showing import said_if_slow
from tlserve.cli.classifying import shortened
from tlserve.cli.failing import FAILED, complain
from tlserve.cli.options import DEFAULT_ADDRESS, Address, AsJson, ConfigFile, StateFolder, connect
from tlserve.cli.pages import AsPage, Opens, PageFile, check_place, open_page, write_page
from tlserve.cli.progress import PassView, Step
from tlserve.cli.terminal import Listing, say, show_json, show_listing, terminal_columns
from tlserve.core.errors import TlserveError

if TYPE_CHECKING:
    from tlserve.client import Client
    from tlserve.report import Choice
    from tlserve.rpc.backend import Comparison, ModelEvent

CLASSICS = "nano,torchvision/inception_v3,torchvision/vgg16,torchvision/resnet50"
BUSY = "The daemon does something else first; the comparison begins as soon as it can (Ctrl-C gives it up)."
BUSY_SECONDS = 3.0
_PART = "comparing backbones: "
_HEADINGS = ("backbone", "accuracy (95 %)", "extract", "train", "ms/image", "MB", "params")
_OTHER_COLUMNS = 60
"""What a row needs on a terminal beside the backbone's name."""
_LEAST_NAME, _LONGEST_PART = 16, 44

Row = Mapping[str, Any]


def compare(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Name of a model of the daemon; a path of its folder needs no daemon."
        ),
    ],
    *,
    backbones: Annotated[
        str, typer.Option("--backbones", metavar="A,B,C", help="As `tlserve backbones` lists them.")
    ] = CLASSICS,
    as_page: AsPage = False,
    out: PageFile = None,
    opens: Opens = True,
    address: Address = DEFAULT_ADDRESS,
    state: StateFolder = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Compare backbones on a model's images: accuracy, time to learn and to predict, size.

    A daemon does it in the background, and keeps what went through a backbone.
    With --html (or --out) also as a page with plots. Nothing is changed: `tlserve adopt` takes a row.
    """
    names = [name.strip() for name in backbones.split(",")]
    if not all(names):
        raise typer.BadParameter("names separated by commas are needed", param_hint="--backbones")
    check_place(out)
    is_folder = os.sep in model or model in (".", "..") or state is not None or config is not None
    with PassView() as view:
        follower = ComparisonFollower(view)
        if is_folder:
            found = _without_daemon(_folder(model), names, state, config, follower)
        else:
            found = _ask_daemon(model, names, address, follower)
    choice = _choice(found.found["rows"])
    if as_json:
        show_json({**found.found, "choice": None if choice is None else asdict(choice)})
    else:
        show_listing(comparison_listing(found.found["rows"], terminal_columns()))
        for line in advice_lines(found.found, choice):
            say(line)
    if as_page or out is not None:
        path = write_page(found.page, out, f"{found.found['model']}-backbones")
        say(f"The page is {path}")
        if opens:
            open_page(path)
    if choice is None:
        complain("none of these backbones can be used here; see what is said of each")
        raise typer.Exit(FAILED)


class ComparisonFollower:
    """Shows how far a comparison is."""

    def __init__(self, view: PassView) -> None:
        self._view = view
        self._has_begun = False
        self._backbone = ""

    def __call__(self, event: ModelEvent) -> None:
        if event.kind != "comparison":
            return
        self._has_begun = True
        _, named, backbone = event.message.partition(_PART)
        if named:
            self._backbone = backbone
        step = Step(
            event.phase,
            event.done,
            event.total,
            event.per_second,
            event.seconds_left,
            part=shortened(self._backbone, _LONGEST_PART),
        )
        self._view.show(step)

    def say_unless_begun(self, text: str) -> None:
        if not self._has_begun:
            self._view.say(text)


def _folder(model: str) -> Path:
    folder = Path(os.path.abspath(model))  # noqa: PTH100 (`..` goes, links stay)
    if not folder.is_dir():
        raise typer.BadParameter(f"no folder {model!r}; without --state a plain name is a daemon's model")
    return folder


def _without_daemon(
    folder: Path, names: Sequence[str], state: Path | None, config: Path | None, follower: ComparisonFollower
) -> Comparison:
    from tlserve.app import compare_once
    from tlserve.settings import load_settings

    settings = load_settings({"watch": folder.parent, "state": state}, config)
    return compare_once(settings, folder, names, follower)


def _ask_daemon(model: str, names: Sequence[str], address: str, follower: ComparisonFollower) -> Comparison:
    """A call that is given up (Ctrl-C) ends the comparison in the daemon too."""
    with (
        connect(address, timeout_seconds=None) as client,
        said_if_slow([BUSY], BUSY_SECONDS, speak=follower.say_unless_begun),
        _followed(connect(address, timeout_seconds=None), model, follower),
    ):
        return client.compare(model, names)


@contextlib.contextmanager
def _followed(client: Client, model: str, follower: ComparisonFollower) -> Iterator[None]:
    """Show the model's events meanwhile, over a connection of their own, whose end ends it."""

    def follow() -> None:
        with contextlib.suppress(TlserveError):  # what is wrong is told by whatever goes on meanwhile
            for event in client.watch(model):
                follower(event)

    following = threading.Thread(target=follow, name="events")
    following.start()
    try:
        yield
    finally:
        client.close()
        following.join()


def _choice(rows: Sequence[Row]) -> Choice | None:
    from tlserve.report import choose

    return choose(rows)


def comparison_listing(rows: Sequence[Row], columns: int | None = None) -> Listing:
    """The best first, what cannot be used last; with the licence, or with what is wrong, as the sentence.

    columns: of the terminal, where long names lose their middle; None in a pipe.
    """
    room = max(_LEAST_NAME, columns - _OTHER_COLUMNS) if columns is not None else None
    ordered = sorted(rows, key=lambda row: (bool(row.get("error")), -(row.get("accuracy") or 0.0)))
    cells = [_cells(row, room) for row in ordered]
    sentences = [row.get("error") or _remark(row) for row in ordered]
    return Listing(_HEADINGS, cells, "licence, or what is wrong", sentences, _HEADINGS[1:])


def _cells(row: Row, room: int | None) -> tuple[str | Text, ...]:
    name = str(row["backbone"]) if room is None else shortened(str(row["backbone"]), room)
    if row.get("error"):
        return (Text(name, style="red"), *[wording.NOTHING] * (len(_HEADINGS) - 1))
    parameters = row.get("n_parameters")
    return (
        name,
        _accuracy(row),
        wording.seconds(row.get("extract_seconds")),
        wording.seconds(row.get("train_seconds")),
        _figures(row.get("predict_ms")),
        _figures(row.get("graph_mb")),
        wording.NOTHING if parameters is None else wording.parameters(parameters),
    )


def _accuracy(row: Row) -> str:
    """76.7 % (59-88)."""
    low, high = row.get("accuracy_low"), row.get("accuracy_high")
    spread = "" if low is None or high is None else f" ({low * 100:.0f}-{high * 100:.0f})"
    return wording.share(row.get("accuracy")) + spread


def _remark(row: Row) -> str:
    licence = " ".join(str(row.get("licence") or "licence unknown").split())
    return f"in use now; {licence}" if row.get("live") else licence


def _figures(value: float | None) -> str:
    """346; 12.3; 4.9."""
    if value is None:
        return wording.NOTHING
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


def advice_lines(found: Mapping[str, Any], choice: Choice | None) -> list[str]:
    """Which one to take and why, and the command for it."""
    if choice is None:
        return []
    lines = ["", choice.reason]
    if any(row.get("live") and row["backbone"] == choice.backbone for row in found["rows"]):
        return [*lines, "It is the one in use now."]
    command = shlex.join(["tlserve", "adopt", str(found["model"]), choice.backbone])
    return [*lines, f"Take it: {command}"]
