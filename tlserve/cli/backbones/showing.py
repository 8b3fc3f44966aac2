"""`tlserve backbones show NAME`: everything about one backbone, which is loaded for it."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from tlserve.cli import wording
from tlserve.cli.options import ADDRESS_OPTION, DEFAULT_ADDRESS, AsJson, ConfigFile, StateFolder, connect
from tlserve.cli.terminal import say, show, show_json

if TYPE_CHECKING:
    from tlserve.core.backbones import BackboneDescription, Speed
    from tlserve.core.precision import PrecisionTrial
    from tlserve.plugin_api import ImageSpec

SLOW_SECONDS = 2.0
WEIGHTS_FILES = (".onnx", ".safetensors", ".pth", ".pt", ".bin")
ROW_NUMBER_BYTES = 2
"""Rows are kept in half precision, but for those with numbers that it cannot hold."""


def show_backbone(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `tlserve backbones` lists it.")],
    *,
    measure: Annotated[
        bool, typer.Option("--measure", help="Make its build and measure how fast it runs here.")
    ] = False,
    address: Annotated[str | None, ADDRESS_OPTION] = None,
    config: ConfigFile = None,
    state: StateFolder = None,
    as_json: AsJson = False,
) -> None:
    """Show all about one backbone: weights and licence, input, taps, row, build and speed.

    It is loaded for that, which may download its weights. Without a daemon, the plugins installed here
    are asked.
    """
    found = ask_for_backbone(name, address, config, state, measure=measure)
    if as_json:
        show_json(plain_description(found))
        return
    show(Text(found.name, style="bold"))
    show(facts_table(described(found)))
    show("")
    show(f"Use it: tlserve serve --backbone {shlex.quote(found.name)} ...")


def ask_for_backbone(
    name: str, address: str | None, config: Path | None, state: Path | None, *, measure: bool
) -> BackboneDescription:
    """From the daemon; from the plugins here where none runs and no address was given."""
    from tlserve.client import NobodyListens

    there = waiting_words(name, measure=measure, machine="the daemon's machine")
    try:
        with (
            connect(DEFAULT_ADDRESS if address is None else address, timeout_seconds=None) as client,
            said_if_slow(there, SLOW_SECONDS),
        ):
            return client.backbone(name, measure=measure)
    except NobodyListens:
        if address is not None:
            raise
    from tlserve.app import describe_backbone_once
    from tlserve.settings import load_settings

    say(f"No daemon answers at {DEFAULT_ADDRESS}; the plugins installed here are asked.")
    settings = load_settings({"state": state}, config)
    with said_if_slow(waiting_words(name, measure=measure, machine="this machine"), SLOW_SECONDS):
        found = describe_backbone_once(settings, name, measure=measure)
    if measure and not found.build_folder:
        say(f"There is no state directory {settings.state}: the build measured here was temporary.")
    return found


def waiting_words(name: str, *, measure: bool, machine: str) -> list[str]:
    """What the person waits for. Random weights and files of one's own are never downloaded."""
    fetches = not name.endswith(("@random", *WEIGHTS_FILES))
    words = [f"Loading {name} (this may download its weights)." if fetches else f"Loading {name}."]
    if measure:
        words += [
            "Then its build is made, if need be, and run for some seconds: a minute or two for a large one.",
            f"Other work on {machine} makes the numbers smaller.",
        ]
    return words


@contextlib.contextmanager
def said_if_slow(
    lines: Sequence[str], seconds: float, *, speak: Callable[[str], None] = say
) -> Iterator[None]:
    """Say the lines to the person when what is done meanwhile takes longer than this."""

    def speak_all() -> None:
        for line in lines:
            speak(line)

    timer = threading.Timer(seconds, speak_all)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def described(found: BackboneDescription) -> Iterable[tuple[str, str]]:
    """(what, in words), top down."""
    info = found.info
    yield "licence", info.licence
    short = f" ({wording.parameters(info.n_parameters)})" if info.n_parameters >= 1000 else ""
    yield "parameters", f"{info.n_parameters:,}{short}"
    yield "weights", info.weights_origin
    yield "sha256", info.weights_sha256
    yield "plugin", f"{found.plugin} ({found.source})"
    yield "build version", info.build_version
    yield "input", f"{input_in_words(info.image)}; {normalisation_in_words(info.image)}"
    yield "taps", ", ".join(f"{tap.name} {tap.width:,}" for tap in info.taps)
    width = row_width(found)
    yield "row", f"{width:,} numbers, {width * ROW_NUMBER_BYTES:,} bytes for each cached image"
    yield "fine-tuning", "yes" if found.trainable else "no"
    if found.build_folder:
        yield "build", f"{found.build_folder} ({found.build_bytes / 1e6:,.1f} MB)"
    else:
        yield "build", "not made yet; the first pass of a model that uses it makes it"
    yield "precision", found.precision
    if found.trial is not None:
        yield "", trial_in_words(found.trial)
    for at, speed in enumerate(reversed(found.speeds)):
        yield ("" if at else "speed"), speed_in_words(speed)
    if not found.speeds:
        command = f"tlserve backbones show {shlex.quote(found.name)} --measure"
        yield "speed", f"not measured on this machine yet: {command}"


def facts_table(facts: Iterable[tuple[str, str]]) -> Table:
    grid = Table(box=None, show_header=False, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for what, words in facts:
        grid.add_row(Text(what), Text(words))
    return grid


def input_in_words(image: ImageSpec) -> str:
    """How a picture gets its size."""
    head = f"{image.width} x {image.height} pixels, {image.channel_order}, {image.layout}"
    if image.resize_short_side is None:
        return f"{head}: squeezed to that size ({image.interpolation})"
    short = image.resize_short_side
    return f"{head}: the middle of the picture resized to a short side of {short} ({image.interpolation})"


def normalisation_in_words(image: ImageSpec) -> str:
    return f"(pixel - {_per_channel(image.mean)}) / {_per_channel(image.std)}"


def speed_in_words(speed: Speed) -> str:
    """12 images/s one by one; on what, and when."""
    how = {0: "from files to rows, while learning", 1: "one by one"}.get(
        speed.batch_size, f"in batches of {speed.batch_size}"
    )
    threads = "" if speed.device != "cpu" else f", {wording.count(speed.threads, 'thread')}"
    day = datetime.fromtimestamp(speed.measured_at).strftime("%Y-%m-%d")
    return f"{wording.speed(speed.images_per_second)} images/s {how} ({speed.hardware}{threads}, {day})"


def trial_in_words(trial: PrecisionTrial) -> str:
    """Why it is this precision: the numbers, from how many images, where and when."""
    day = datetime.fromtimestamp(trial.decided_at).strftime("%Y-%m-%d")
    images = [wording.count(trial.n_images, "training image")] if trial.n_images else []
    return f"{trial.reason} ({', '.join([*images, trial.hardware, day])})"


def row_width(found: BackboneDescription) -> int:
    return sum(tap.width for tap in found.info.taps)


def plain_description(found: BackboneDescription) -> dict[str, Any]:
    """For `--json`: one flat object, with what the backbone declares in the middle of it."""
    fields: dict[str, Any] = dataclasses.asdict(found)
    declared: dict[str, Any] = fields.pop("info") | {"row_width": row_width(found)}
    return fields | declared | {"name": found.name}


def _per_channel(numbers: tuple[float, float, float]) -> str:
    if len(set(numbers)) == 1:
        return f"{numbers[0]:g}"
    return f"[{', '.join(f'{number:g}' for number in numbers)}]"
