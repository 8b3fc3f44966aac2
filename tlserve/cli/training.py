"""`tlserve train`: one pass over one model's folder without a daemon, with its progress."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from tlserve.cli.failing import FAILED, complain
from tlserve.cli.options import BackboneName, ConfigFile, StateFolder
from tlserve.cli.progress import PassView, Step
from tlserve.cli.terminal import say

if TYPE_CHECKING:
    from tlserve.app import TrainOutcome
    from tlserve.rpc.backend import ModelEvent
    from tlserve.settings import Settings

GOOD_OUTCOMES = ("published", "unchanged")


def train(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", exists=True, file_okay=False, help="A model's folder of class folders."
        ),
    ],
    state: StateFolder = None,
    backbone: BackboneName = None,
    config: ConfigFile = None,
) -> None:
    """Train one model once, without a daemon, and exit. Refused while a daemon owns the state."""
    from tlserve.app import train_once
    from tlserve.settings import load_settings

    folder = folder.absolute()
    settings = load_settings({"watch": folder.parent, "state": state, "backbone": backbone}, config)
    # The view tells of events; without a handler here, the board's warnings would be told twice.
    logging.getLogger("tlserve.models").addHandler(logging.NullHandler())
    with PassView() as view:
        outcome = train_once(settings, folder, lambda event: show_event(view, event))
    if outcome.done.outcome not in GOOD_OUTCOMES:
        complain(outcome.done.reason)
        raise typer.Exit(FAILED)
    for line in result_lines(outcome, settings):
        say(line)


def show_event(view: PassView, event: ModelEvent) -> None:
    """Progress moves the bars; what was found in the folder is a line above them."""
    if event.kind in ("snapshot", "problem"):
        view.say(Text(event.message, style="yellow" if event.kind == "problem" else ""))
    else:
        view.show(Step(event.phase, event.done, event.total, event.per_second, event.seconds_left))


def result_lines(outcome: TrainOutcome, settings: Settings) -> list[Text]:
    """What came of it, and where it is."""
    done, state = outcome.done, settings.state.absolute()
    if done.version is None:
        return [Text(f"{done.model}: {done.reason}.")]
    is_live = outcome.live == done.version
    what = "is live" if is_live else f"is not live (version {outcome.live} stays)"
    spent = ", ".join(f"{phase} {took:.1f}" for phase, took in done.timeline.items())
    return [
        Text(
            f"{done.model}: version {done.version} {what}: {done.reason}",
            style="green" if is_live else "yellow",
        ),
        Text(f"It is in {state / 'models' / done.model / str(done.version)}; seconds spent: {spent}."),
        Text(f"Serve it with: {serve_command(settings)}"),
    ]


def serve_command(settings: Settings) -> str:
    """How to serve what was trained; a daemon with another backbone would train it anew."""
    words = ["tlserve", "serve", "--state", str(settings.state.absolute()), "--watch", str(settings.watch)]
    if settings.backbone != type(settings).model_fields["backbone"].default:
        words += ["--backbone", settings.backbone]
    return shlex.join(words)
