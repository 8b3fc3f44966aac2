"""One line a log record, on standard error, with UTC time."""

from __future__ import annotations

import logging
import sys
import time


def set_up_logging(level: str) -> None:
    """Log `tlserve.*` at `level` (debug, info, warning, error) and everything else from warning up."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s  %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("tlserve").setLevel(level.upper())
