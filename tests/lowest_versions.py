"""Print NAME==BOUND for the dependencies in pyproject.toml, as `make test-lowest` installs them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

NEED_NEWER_GRPCIO = {"grpcio-tools", "tritonclient"}
"""Tools for tests that need a grpcio far above our own bound; see the Makefile for what stands in."""


def main() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    for requirement in project["dependencies"] + project["optional-dependencies"]["dev"]:
        found = re.match(r"([\w-]+)(?:\[\w+\])?>=([\w.]+)", requirement)
        if found is None:
            raise SystemExit(f"no lower bound: {requirement}")
        if found[1] not in NEED_NEWER_GRPCIO:
            print(f"{found[1]}=={found[2]}")


if __name__ == "__main__":
    main()
