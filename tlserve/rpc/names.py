"""Names that come from outside, checked before anything below can take them for a path or a number."""

from __future__ import annotations

import re

from tlserve.core.errors import BadInput, UnknownModel, UnknownVersion
from tlserve.core.types import MODEL_NAME

_VERSION = re.compile(r"(?:[0-9]{1,9}|live|previous)?")
_SHOWN_CHARACTERS = 80
_LONGEST_NAME_BYTES = 200


def model_name(name: str) -> str:
    """`name`, if a model could have it; raises BadInput when it is empty, else UnknownModel."""
    if not name:
        raise BadInput("the request names no model")
    if not MODEL_NAME.fullmatch(name):
        raise UnknownModel(shortened(name))
    return name


def version_name(model: str, version: str) -> str:
    """`version`, if it is a decimal, `live`, `previous` or empty; raises UnknownVersion otherwise."""
    if not _VERSION.fullmatch(version):
        raise UnknownVersion(model, shortened(version))
    return version


def new_model_name(name: str) -> str:
    """`name`, if a new model may have it; raises BadInput."""
    if not MODEL_NAME.fullmatch(name):
        raise BadInput(
            f"{shortened(name)!r} cannot be a model: names are 1 to 64 characters of A-Z a-z 0-9 . _ - "
            "and begin with a letter or digit"
        )
    return name


def plain_name(name: str, *, what: str) -> str:
    """`name`, if it can name one file or folder that the watcher looks at; raises BadInput."""
    if not name:
        raise BadInput(f"the {what} is empty")
    if "/" in name or "\\" in name or "\0" in name:
        raise BadInput(f"the {what} {shortened(name)!r} must be a plain name, without path separators")
    if name.startswith((".", "_")):
        raise BadInput(
            f"the {what} {shortened(name)!r} must not begin with '.' or '_': such names are ignored"
        )
    if len(name.encode()) > _LONGEST_NAME_BYTES:
        raise BadInput(f"the {what} {shortened(name)!r} is longer than {_LONGEST_NAME_BYTES} bytes")
    return name


def shortened(name: str) -> str:
    return name if len(name) <= _SHOWN_CHARACTERS else name[:_SHOWN_CHARACTERS] + "..."
