"""Pages for the browser: written to a file, and opened where there is somebody to look at them."""

from __future__ import annotations

import os
import sys
import tempfile
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

AsPage = Annotated[bool, typer.Option("--html", help="As a page, which your browser opens.")]
PageFile = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="Where to write the page; else a temporary file."),
]
Opens = Annotated[bool, typer.Option("--open/--no-open", help="Whether to open the page in your browser.")]

_DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
"""Any of these variables means that a browser can show itself; without, a text browser would take over."""


def check_place(out: Path | None) -> None:
    """Raises BadParameter before the work begins, rather than after it."""
    if out is not None and (not out.parent.is_dir() or out.is_dir()):
        raise typer.BadParameter(f"cannot write a file at {str(out)!r}", param_hint="--out")


def write_page(page: str, out: Path | None, name: str) -> Path:
    """The page as a file; a temporary one that begins with `name` where no place was given."""
    from tlserve.client.download import download

    data = page.encode()
    if out is None:
        number, path = tempfile.mkstemp(prefix=f"tlserve-{name}-", suffix=".html")
        with os.fdopen(number, "wb") as file:
            file.write(data)
        return Path(path)
    with download(out) as file:
        file.write(data)
    return out.absolute()


def open_page(path: Path) -> bool:
    """Whether a browser was asked to show it; False where there is none, or no display."""
    if sys.platform.startswith("linux") and not any(os.environ.get(name) for name in _DISPLAYS):
        return False
    try:
        return webbrowser.open(path.as_uri())
    except webbrowser.Error:
        return False
