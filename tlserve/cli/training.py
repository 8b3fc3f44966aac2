"""`tlserve train`: one pass over one model's folder without a daemon, with its progress."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from tlserve.cli.failing import FAILED, complain
from tlserve.cli.options import (
    LEARNING_HELP,
    Augment,
    BackboneName,
    ConfigFile,
    HeadName,
    PrecisionName,
    StateFolder,
    StrategyName,
    Unfreeze,
    Views,
    learning_flags,
)
from tlserve.cli.progress import PassView, Step
from tlserve.cli.terminal import say

if TYPE_CHECKING:
    from tlserve.app import TrainOutcome
    from tlserve.core.messages import PassDone
    from tlserve.rpc.backend import ModelEvent
    from tlserve.settings import Settings


def train(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", exists=True, file_okay=False, help="A model's folder of class folders."
        ),
    ],
    *,
    state: StateFolder = None,
    backbone: BackboneName = None,
    precision: PrecisionName = None,
    head: HeadName = None,
    strategy: StrategyName = None,
    augment: Augment = None,
    views: Views = None,
    unfreeze: Unfreeze = None,
    study: Annotated[
        bool,
        typer.Option(
            "--study",
            help="After the first version, look for a better one with augmented views and fine-tuning.",
        ),
    ] = False,
    config: ConfigFile = None,
) -> None:
    """Train one model once, without a daemon, and exit. Refused while a daemon owns the state."""
    from tlserve.app import train_once
    from tlserve.core.quadrant import TUNING
    from tlserve.settings import load_settings

    folder = folder.absolute()
    how = learning_flags(head=head, strategy=strategy, augment=augment, views=views, unfreeze=unfreeze)
    flags = {"watch": folder.parent, "state": state, "backbone": backbone, "precision": precision, **how}
    settings = load_settings(flags, config)
    # The view tells of events; without a handler here, the board's warnings would be told twice.
    logging.getLogger("tlserve.models").addHandler(logging.NullHandler())
    with PassView() as view:
        outcome = train_once(settings, folder, lambda event: show_event(view, event), study=study)
    for line in result_lines(outcome, settings):
        say(line)
    if settings.strategy in TUNING and not study:
        say(Text(f"It was not fine-tuned: strategy {settings.strategy} needs --study.", style="yellow"))
    if not outcome.is_good:
        complain(outcome.done.reason)
        raise typer.Exit(FAILED)


def show_event(view: PassView, event: ModelEvent) -> None:
    """Progress moves the bars; what was found in the folder is a line above them."""
    if event.kind in ("snapshot", "problem", "version"):
        view.say(Text(event.message, style="yellow" if event.kind == "problem" else ""))
    else:
        # Within a phase, what counts nothing says something new about it.
        note = event.message if event.kind == "progress" and not event.total else ""
        view.show(Step(event.phase, event.done, event.total, event.per_second, event.seconds_left, note))


def result_lines(outcome: TrainOutcome, settings: Settings) -> list[Text]:
    """What came of it, and where it is; why the last pass failed is for the caller to say."""
    good = outcome.passes if outcome.is_good else outcome.passes[:-1]
    if not good:
        return []
    lines = [line for done in good for line in pass_lines(done, outcome.live, settings)]
    if outcome.page is not None:
        lines.append(Text(f"Its report, for your browser: {outcome.page}"))
    elif outcome.page_problem is not None:
        lines.append(Text(f"Its report could not be written: {outcome.page_problem}", style="yellow"))
    if outcome.backbone != settings.backbone:
        why = f"model.toml or `tlserve adopt` names it, the settings name {settings.backbone}"
        lines.append(Text(f"It learns on {outcome.backbone}: {why}."))
    if any(done.version is not None for done in good):
        lines.append(Text(f"Serve it with: {serve_command(settings)}"))
    return lines


def pass_lines(done: PassDone, live: int | None, settings: Settings) -> list[Text]:
    """How one pass ended."""
    if done.version is None:
        return [Text(f"{done.model}: {done.reason}.")]
    is_live = live == done.version
    was = f"was live until version {live} was" if done.promote else f"is not live (version {live} is)"
    what = "is live" if is_live else was
    spent = ", ".join(f"{phase} {took:.1f}" for phase, took in done.timeline.items())
    folder = settings.state.absolute() / "models" / done.model / str(done.version)
    return [
        Text(
            f"{done.model}: version {done.version} {what}: {done.reason}",
            style="green" if is_live else "yellow",
        ),
        Text(f"It is in {folder}; seconds spent: {spent}."),
    ]


def serve_command(settings: Settings) -> str:
    """How to serve what was trained; a daemon with other settings of learning would train it anew."""
    words = ["tlserve", "serve", "--state", str(settings.state.absolute()), "--watch", str(settings.watch)]
    for name in ("backbone", "precision", *LEARNING_HELP):
        value = getattr(settings, name)
        if value != type(settings).model_fields[name].default:
            words += [f"--{name}", ",".join(value) if isinstance(value, tuple) else str(value)]
    return shlex.join(words)
