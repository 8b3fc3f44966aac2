"""The command line: a thin skin over `tlserve.app` (the daemon) and `tlserve.client` (one that runs).

Data goes to stdout, everything said to the person goes to stderr, so that every command can be piped.
Heavy modules are imported inside the commands that need them: `tlserve --help` stays quick, and torch is
never imported here.
"""

from __future__ import annotations

from tlserve.cli.commands import app, main

__all__ = ["app", "main"]
