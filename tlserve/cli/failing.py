"""How a command ends when something is wrong: one clear line on stderr and an exit code, no traceback.

0 done, 1 failed, 2 wrong use. Usage errors that Typer finds itself are 2 as well.
"""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from tlserve.core.errors import SettingsError, TlserveError

DONE, FAILED, WRONG_USE = 0, 1, 2


def exit_code(error: TlserveError) -> int:
    """2 when the command line or the settings are at fault, 1 for everything else that went wrong."""
    return WRONG_USE if isinstance(error, SettingsError) else FAILED


def complain(text: object) -> None:
    """One message to the person, on stderr."""
    print(f"tlserve: {text}", file=sys.stderr, flush=True)


class ErrorsAsOneLine(TyperGroup):
    """The group all commands belong to: errors of tlserve end a command with one line."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except TlserveError as exc:
            complain(exc)
            raise typer.Exit(exit_code(exc)) from exc
