"""`python -m tlserve`: the same as the `tlserve` command, for places where scripts are not on the path."""

from __future__ import annotations

from tlserve.cli import main

if __name__ == "__main__":
    main()
