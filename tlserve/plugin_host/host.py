"""The one who knows all plugins: lists what they offer and loads a backbone by the name users write."""

from __future__ import annotations

import contextlib
import difflib
import importlib.metadata
import operator
from collections.abc import Iterable, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path

from tlserve.core.errors import BackboneNotFound, BackboneProblem
from tlserve.core.messages import BackboneEntry
from tlserve.core.promises import LARGEST_SIZE, MOST_PARAMETERS, info_faults, is_count
from tlserve.plugin_api import (
    ENTRY_POINT_GROUP,
    Backbone,
    BackboneError,
    BackboneFacts,
    DescribingPlugin,
    Plugin,
    UnknownArchitecture,
)
from tlserve.plugin_host.discovery import (
    PREFIX,
    Claim,
    described,
    folder_claims,
    folder_stamp,
    installed_claims,
    opened,
)


class PluginHost:
    """Plugins from entry points and from folders of single files.

    Files that are added, edited or removed later count at once; packages, after `reload`.

    folders: searched for .py files; one that is missing is an entry of the catalogue, not an error.
    entry_points: in place of those of the installed packages.
    """

    def __init__(
        self, folders: Sequence[Path] = (), *, entry_points: Iterable[EntryPoint] | None = None
    ) -> None:
        self._folders = tuple(folders)
        self._entry_points = None if entry_points is None else tuple(entry_points)
        self._claims: dict[str, list[Claim]] = {}
        self._opened: dict[str, Plugin] = {}
        self._stamp: object = None
        self.reload()

    def reload(self) -> None:
        """Look again at packages and files, also at those that seem unchanged. Runs no plugin yet."""
        self._stamp = folder_stamp(self._folders)
        points = self._entry_points
        if points is None:
            points = tuple(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP))
        self._claims, self._opened = {}, {}
        for claim in (*installed_claims(points), *folder_claims(self._folders)):
            self._claims.setdefault(claim.prefix, []).append(claim)

    def catalogue(self) -> tuple[BackboneEntry, ...]:
        """Everything users may write, sorted by plugin; a broken plugin is one entry with its error."""
        self._look_at_files()
        return tuple(entry for prefix in sorted(self._claims) for entry in self._entries(prefix))

    def load(self, name: str) -> Backbone:
        """The backbone that users call `name`: `prefix`, `prefix/rest` or `prefix:rest`.

        Raises BackboneNotFound, or BackboneProblem naming the plugin and what is wrong with it.
        """
        self._look_at_files()
        prefix, rest = _split(name)
        if prefix not in self._claims:
            raise BackboneNotFound(self._not_found(name))
        plugin = self._plugin(prefix)
        try:
            backbone = plugin.load(rest)
            is_backbone = isinstance(backbone, Backbone)
            faults = info_faults(backbone.info) if is_backbone else ()
        except UnknownArchitecture as exc:
            raise BackboneNotFound(f"plugin {prefix!r}: {exc}{_near_names(plugin, rest, str(exc))}") from exc
        except BackboneError as exc:
            raise BackboneProblem(f"plugin {prefix!r}: {exc}") from exc
        except BaseException as exc:
            raise BackboneProblem(f"plugin {prefix!r} failed to load {name!r}: {described(exc)}") from exc
        if not is_backbone:
            raise BackboneProblem(
                f"plugin {prefix!r} gave a {type(backbone).__name__} for {name!r}, "
                "which has no `info` and `export`"
            )
        if faults:
            raise BackboneProblem(f"plugin {prefix!r}, backbone {name!r}: {'; '.join(faults)}")
        return backbone

    def plugin_of(self, name: str) -> str:
        """The plugin (its prefix) that answers for `name`. Raises BackboneNotFound."""
        self._look_at_files()
        prefix, _ = _split(name)
        if prefix not in self._claims:
            raise BackboneNotFound(self._not_found(name))
        return prefix

    def claimed_by(self, prefix: str) -> tuple[str, ...]:
        """Where the plugins with this prefix are, in words; empty if it is free. Runs no plugin."""
        self._look_at_files()
        return tuple(claim.source for claim in self._claims.get(prefix, ()))

    def source_of(self, prefix: str) -> str:
        """Where the plugin with this prefix was found, in words."""
        return " and ".join(claim.source for claim in self._claims[prefix])

    def _look_at_files(self) -> None:
        if folder_stamp(self._folders) != self._stamp:
            self.reload()

    def _plugin(self, prefix: str) -> Plugin:
        claims = self._claims[prefix]
        if len(claims) > 1:
            raise BackboneProblem(
                f"two plugins claim the prefix {prefix!r}: {self.source_of(prefix)}; rename or remove one"
            )
        if prefix not in self._opened:
            self._opened[prefix] = opened(claims[0])
        return self._opened[prefix]

    def _entries(self, prefix: str) -> list[BackboneEntry]:
        source = self.source_of(prefix)
        try:
            plugin = self._plugin(prefix)
            names = _listed_names(plugin)
        except BaseException as exc:
            known = isinstance(exc, BackboneProblem | BackboneError)
            return [BackboneEntry(prefix, prefix, source, str(exc) if known else described(exc))]
        return [_entry(plugin, prefix, rest, source) for rest in names]

    def _not_found(self, name: str) -> str:
        if name.endswith(".onnx") and "onnx" in self._claims:
            return f"no plugin offers {name!r}; for an ONNX file write onnx:{name}"
        offered = [entry.name for entry in self.catalogue() if entry.error is None]
        near = difflib.get_close_matches(name, offered, n=3)
        by_rest = [full for full in offered if full.endswith(f"/{name}")]
        meant = by_rest or near or self._of_near_plugins(_split(name)[0])
        hint = f"did you mean {' or '.join(meant)}? " if meant else ""
        return f"no plugin offers {name!r}; {hint}plugins here: {', '.join(sorted(self._claims)) or 'none'}"

    def _of_near_plugins(self, prefix: str) -> list[str]:
        """Some names of the plugin whose prefix looks most like this one; of a broken one the prefix."""
        near = difflib.get_close_matches(prefix, self._claims, n=1)
        return [entry.name for one in near for entry in self._entries(one)][:3]


def _split(name: str) -> tuple[str, str]:
    """(prefix, rest), at the first character that cannot belong to a prefix if that is `/` or `:`."""
    match = PREFIX.match(name)
    end = match.end() if match else 0
    if end == len(name) or name[end] not in "/:":
        return name, ""
    return name[:end], name[end + 1 :]


def _listed_names(plugin: Plugin) -> tuple[str, ...]:
    listed: object = plugin.names()
    if isinstance(listed, list | tuple) and all(isinstance(name, str) for name in listed):
        return tuple(listed)
    raise BackboneError(f"its `names` must give a list or tuple of texts, got {listed!r}")


def _entry(plugin: Plugin, prefix: str, rest: str, source: str) -> BackboneEntry:
    facts = _facts(plugin, rest)
    return BackboneEntry(
        _written(prefix, rest),
        prefix,
        source,
        licence=facts.licence if isinstance(facts.licence, str) and facts.licence else None,
        n_parameters=_count(facts.n_parameters, MOST_PARAMETERS),
        height=_count(facts.height, LARGEST_SIZE),
        width=_count(facts.width, LARGEST_SIZE),
        row_width=_count(facts.row_width, LARGEST_SIZE),
    )


def _facts(plugin: Plugin, rest: str) -> BackboneFacts:
    """What the plugin says before loading; nothing where it cannot, or breaks: a listing needs no more."""
    if isinstance(plugin, DescribingPlugin):
        with contextlib.suppress(BaseException):
            facts: object = plugin.facts(rest)
            if isinstance(facts, BackboneFacts):
                return facts
    return BackboneFacts()


def _count(number: object, most: int) -> int | None:
    """A count that makes sense, or None; foreign whole numbers (of numpy) become Python's."""
    try:
        whole = operator.index(number)  # type: ignore[arg-type]
    except TypeError:
        return None
    return whole if is_count(whole, most) and not isinstance(number, bool) else None


def _near_names(plugin: Plugin, rest: str, said: str) -> str:
    """Names of the plugin that look like `rest`, for an error that does not tell them itself."""
    with contextlib.suppress(BaseException):
        near = difflib.get_close_matches(rest, _listed_names(plugin), n=3)
        if near and not any(name in said for name in near):
            return f"; did you mean {' or '.join(near)}?"
    return ""


def _written(prefix: str, rest: str) -> str:
    """As users write it; patterns for file paths begin with FILE and read best after a colon."""
    if not rest:
        return prefix
    return f"{prefix}:{rest}" if rest.startswith("FILE") else f"{prefix}/{rest}"
