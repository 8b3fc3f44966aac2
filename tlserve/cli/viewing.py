"""`tlserve views`: what augmentation makes of a picture, to be looked at before a model learns from it."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tlserve.cli import wording
from tlserve.cli.failing import FAILED, complain
from tlserve.cli.pages import check_place
from tlserve.cli.terminal import Listing, say, say_folded, show, show_listing, table
from tlserve.core.errors import BadImage, SettingsError

if TYPE_CHECKING:
    from PIL.Image import Image

    from tlserve.core.augmentation import Augmentation
    from tlserve.core.view_steps import Kind

MOST_PICTURES = 600
"""On one sheet: with more, few programs show it."""
SHORT_SIDE = 256 / 224
"""Of a picture before the middle is cut out, over the backbone's input: so most backbones want it."""


def views(
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILE", help="Image files.")] = None,
    *,
    augment: Annotated[
        str | None,
        typer.Option(
            "--augment",
            metavar="POLICY|LIST",
            help="none, light, standard, heavy, or operations: flip,rotate=15,erase=0.1@0.3",
        ),
    ] = None,
    each: Annotated[
        bool,
        typer.Option("--each", help="Each operation by itself: those of --augment, or all there are."),
    ] = False,
    n_views: Annotated[
        int, typer.Option("--views", min=1, max=64, help="Views of each picture, numbered as in learning.")
    ] = 5,
    side: Annotated[
        int,
        typer.Option(
            "--backbone-size",
            min=32,
            max=1024,
            metavar="PIXELS",
            help="Side of the backbone's input (nano: 112).",
        ),
    ] = 224,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE.png", help="Where to write the sheet; else a temporary file."),
    ] = None,
    lists: Annotated[
        bool, typer.Option("--list", help="Print the operations and the policies instead.")
    ] = False,
) -> None:
    """Draw what augmentation makes of pictures: the very views that learning sees, by their numbers.

    The path of the PNG goes to stdout; nothing is opened, and no daemon is needed. Without --augment
    the policies are shown one below the other. What you like goes into a model.toml.
    """
    if lists:
        _show_lists()
        return
    _check_files(files or ())
    check_place(out)
    if out is not None and out.suffix.lower() != ".png":
        raise SettingsError(f"--out: the sheet is a PNG; write {str(out.with_suffix('.png'))!r}")
    ways = list(_ways(augment, each=each))
    n_pictures = len(files or ()) * sum(1 + len(way.indices(n_views)) for _, way in ways)
    if n_pictures > MOST_PICTURES:
        what = f"{n_pictures:,} pictures on one sheet; at most {MOST_PICTURES} can be shown"
        raise SettingsError(f"{what}: name fewer files, or fewer views with --views")
    parts, n_bad = _parts(files or (), ways, n_views, side)
    if parts:
        show(str(_written(parts, out)))
        say(_advice(augment))
    if n_bad:
        raise typer.Exit(FAILED)


def _check_files(files: Sequence[Path]) -> None:
    """Raises SettingsError, as for any wrong use, where there is nothing to draw."""
    if not files:
        raise SettingsError("name an image file, or list the operations: tlserve views --list")
    for file in files:
        if not file.is_file():
            raise SettingsError(f"{file} is {'a folder' if file.is_dir() else 'not there'}; name image files")


def _ways(augment: str | None, *, each: bool) -> Iterator[tuple[str, Augmentation]]:
    """What to draw, each with its heading. Raises SettingsError for an operation that is not known."""
    from tlserve.core.augmentation import POLICIES, Augmentation, policy
    from tlserve.core.view_steps import KINDS

    try:
        wanted = None if augment is None else policy(augment)
    except ValueError as exc:
        raise SettingsError(f"--{exc}") from exc
    if each and wanted is not None and not wanted.operations:
        raise SettingsError("--each: 'none' has no operations; leave out --augment to see all there are")
    if each:
        operations = policy(list(KINDS)).operations if wanted is None else wanted.operations
        for one in operations:
            strength = f"={one.strength:g}" if one.strength else ""
            yield f"{one.name}{strength} by itself: {KINDS[one.name].says}", Augmentation((one,))
    elif wanted is None:
        for name, words in POLICIES.items():
            if words:
                yield f"{name}: {_words(words)}", policy(name)
    else:
        items = _items(augment or "")
        named = POLICIES.get(items[0]) if len(items) == 1 else None
        yield f"{items[0]}: {_words(named)}" if named is not None else _words(items), wanted


def _parts(
    files: Sequence[Path], ways: Sequence[tuple[str, Augmentation]], n_views: int, side: int
) -> tuple[list[tuple[str, Image]], int]:
    """A sheet for each way and file, with its heading, and how many files gave none; these are named."""
    from tlserve.images.contact_sheet import contact_sheet
    from tlserve.plugin_api import ImageSpec

    spec = ImageSpec(side, side, round(side * SHORT_SIDE), mean=(0, 0, 0), std=(1, 1, 1))
    columns = 1 + n_views if len(files) * len(ways) > 1 and n_views < 10 else None
    found: list[tuple[str, Image]] = []
    n_bad = 0
    for file in files:
        of_file = f"{file.name}  " if len(files) > 1 else ""
        try:
            data = file.read_bytes()
            found += [
                (of_file + heading, contact_sheet(data, spec, way, n_views, columns=columns))
                for heading, way in ways
            ]
        except (OSError, BadImage) as exc:
            complain(f"{file}: {(isinstance(exc, OSError) and exc.strerror) or exc}")
            n_bad += 1
    return found, n_bad


def _written(parts: Sequence[tuple[str, Image]], out: Path | None) -> Path:
    """The parts as one PNG; a temporary one where no place was given."""
    from tlserve.client.download import download
    from tlserve.images.contact_sheet import stacked

    held = io.BytesIO()
    stacked(parts).save(held, "PNG")
    if out is None:
        number, path = tempfile.mkstemp(prefix="tlserve-views-", suffix=".png")
        with os.fdopen(number, "wb") as file:
            file.write(held.getbuffer())
        return Path(path)
    with download(out) as file:
        file.write(held.getbuffer())
    return out.absolute()


def _advice(augment: str | None) -> str:
    """How a model comes to learn from what is shown."""
    if augment is None:
        return 'Choose in a model.toml, for example: augment = "light"'
    items = _items(augment)
    value = f'"{items[0]}"' if len(items) == 1 else "[" + ", ".join(f'"{item}"' for item in items) + "]"
    return f"In a model.toml: augment = {value}"


def _items(augment: str) -> list[str]:
    return [item.strip() for item in augment.split(",")]


def _words(items: Sequence[str]) -> str:
    return ", ".join(items) or "no views"


def _show_lists() -> None:
    """The operations, then the policies."""
    from tlserve.core.augmentation import POLICIES
    from tlserve.core.view_steps import KINDS

    rows = [(name, *_figures(kind)) for name, kind in KINDS.items()]
    headings = ("operation", "strength", "limits", "share of views")
    says = [kind.says for kind in KINDS.values()]
    show_listing(Listing(headings, rows, "what it does; what its strength is", says, headings[1:]))
    show("")
    show(table(("policy", "operations"), [(name, _words(words)) for name, words in POLICIES.items()]))
    say()
    say_folded(
        "Write rotate=20 for another strength, rotate=20@0.5 for half of the views. colour=0.2 stands for "
        "brightness, contrast, saturation and hue together.",
        indent=0,
    )


def _figures(kind: Kind) -> tuple[str, str, str]:
    """Strength, its limits, and the share of views, where nothing is written."""
    share = f"{kind.probability:g}"
    if not kind.strength:
        return wording.NOTHING, wording.NOTHING, share
    limits = f"{kind.least:g} to {kind.most:g}" if kind.least else f"up to {kind.most:g}"
    return f"{kind.strength:g}", limits, share
