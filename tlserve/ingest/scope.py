"""Which part of a model's folder is meant: some paths and all that lies below them. Pure names, no disk."""

from __future__ import annotations

from collections.abc import Iterable

from tlserve.ingest.names import above


class Scope:
    """Paths relative to the model's folder; "" is the folder itself, which holds everything."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = frozenset(paths)

    @property
    def is_everything(self) -> bool:
        return "" in self._paths

    @property
    def paths(self) -> list[str]:
        """In order, without those that lie below another."""
        return sorted(path for path in self._paths if not self.is_above(path))

    def __contains__(self, path: str) -> bool:
        return path in self._paths or self.is_above(path)

    def is_above(self, path: str) -> bool:
        """Whether `path` lies below one of the paths."""
        return (path != "" and "" in self._paths) or any(folder in self._paths for folder in above(path))


EVERYTHING = Scope([""])
