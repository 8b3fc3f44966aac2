"""The page templates, and the one way to load them: every value is escaped, every misspelt name an error."""

from __future__ import annotations

from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tlserve.report import words


def environment() -> Environment:
    """Templates of this folder; names, paths and sentences of users are escaped wherever they stand."""
    made = Environment(
        loader=PackageLoader("tlserve.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "percent": words.percent,
        "interval": words.interval,
        "points": words.points,
        "count": words.count,
        "small": words.small,
        "seconds": words.seconds,
        "parameters": words.parameters,
    }
    made.globals["included"] = included
    return made


def included(name: str) -> Markup:
    """A style sheet or script of this folder, as it stands: our own text, never a user's."""
    return Markup((files(__package__) / name).read_text(encoding="utf-8"))
