"""The other process of `check_plugin`: it looks at a plugin that nobody has touched there."""

from __future__ import annotations

import sys

from tlserve.testing.elsewhere import report

if __name__ == "__main__":
    report(*sys.argv[1:])
