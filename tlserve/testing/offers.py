"""Checks of a plugin as a whole. Each gives what is wrong, or None."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import combinations
from pathlib import Path

from tlserve.plugin_api import (
    Backbone,
    DescribingPlugin,
    Plugin,
    UnknownArchitecture,
    WeightsUnavailable,
)
from tlserve.runtime.spec import build_digest
from tlserve.testing.elsewhere import Sight, look_elsewhere
from tlserve.testing.opening import offered_at
from tlserve.testing.trial import RAISED, Trial, difference

NO_SUCH_NAME = "no-such-backbone"
_PLACEHOLDER = re.compile(r"(?<![A-Za-z0-9_])[A-Z]{3,}(?![A-Za-z0-9_])")
_FILE = re.compile(r"FILE(\.\w+)?")

Spoiled = Callable[[], object]


@dataclass(frozen=True)
class PluginTrial:
    """The plugin, where it is, and what is found out about it once, when first asked."""

    where: str | Path
    wanted: Sequence[str] | None
    """The backbones to prove; None for all that are listed."""
    spoiled: Sequence[Spoiled]
    folder: Path

    @cached_property
    def offered(self) -> object:
        return offered_at(self.where)

    @cached_property
    def plugin(self) -> Plugin:
        if not isinstance(self.offered, Plugin):
            raise TypeError(f"{type(self.offered).__name__} lacks `names` or `load`")
        return self.offered

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The backbones to prove. Raises ValueError if there are none: patterns cannot be loaded."""
        names = tuple(self.wanted or [one for one in self.plugin.names() if not is_pattern(one)])
        if not names:
            raise ValueError("it lists patterns only: say which names to prove, check_plugin(where, [NAME])")
        return names

    @cached_property
    def backbones(self) -> Mapping[str, Backbone]:
        return {name: self.plugin.load(name) for name in self.names}

    def called(self, name: str) -> str:
        """What messages call a backbone: its name; the plugin's where users write no more than that."""
        if name:
            return name
        if isinstance(self.where, Path):
            return self.where.stem
        with contextlib.suppress(*RAISED):  # whatever is wrong with it, another message is on its way
            if isinstance(said := self.backbones[name].info.name, str) and said:
                return said
        return self.where

    @cached_property
    def trials(self) -> Mapping[str, Trial]:
        """Each backbone with a folder of its own."""
        made = {}
        for place, (name, backbone) in enumerate(self.backbones.items()):
            folder = self.folder / f"backbone {place}"
            folder.mkdir()
            made[name] = Trial(backbone, folder)
        return made

    @cached_property
    def here(self) -> Mapping[str, Sight]:
        return {name: Sight.of(trial) for name, trial in self.trials.items()}

    @cached_property
    def there(self) -> Mapping[str, Sight]:
        return look_elsewhere(self.where, self.names)


def is_pattern(name: str) -> bool:
    """Whether a listed name stands for many, such as ``FILE.onnx`` or ``ARCH@WEIGHTS``."""
    return bool(_PLACEHOLDER.search(name))


def is_a_plugin(trial: PluginTrial) -> str | None:
    return None if isinstance(trial.offered, Plugin) else f"{type(trial.offered).__name__} lacks one of them"


def names_are_listed(trial: PluginTrial) -> str | None:
    names: object = trial.plugin.names()
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return f"got {names!r}"
    if not names:
        return "there are none"
    if any(name != name.strip() for name in names):
        return "one begins or ends with a space"
    twice = [name for name in names if names.count(name) > 1]
    return f"{twice[0]!r} is there twice" if twice else None


def names_are_loaded(trial: PluginTrial) -> str | None:
    for name in trial.names:
        try:
            given: object = trial.plugin.load(name)
        except RAISED as exc:
            return f"{trial.called(name)!r} raised {type(exc).__name__}: {exc}"
        if not isinstance(given, Backbone):
            return f"{trial.called(name)!r} gave a {type(given).__name__}"
    return None


def unknown_name(trial: PluginTrial) -> str | None:
    """A plugin of files may take the name for a file that is missing."""
    listed = trial.plugin.names()
    try:
        trial.plugin.load(NO_SUCH_NAME)
    except UnknownArchitecture as exc:
        plain = [name for name in listed if name and not is_pattern(name)]
        if plain and not any(name in str(exc) for name in plain):
            return f"it names none that there is: {exc}"
        return None if str(exc).strip() else "it says nothing"
    except WeightsUnavailable as exc:
        if any(is_pattern(name) for name in listed):
            return None
        return f"a WeightsUnavailable came instead: {exc}"
    except RAISED as exc:
        return f"a {type(exc).__name__} came instead: {exc}"
    return "it was loaded"


def unusable_weights(trial: PluginTrial) -> str | None:
    for what, load in _without_weights(trial):
        try:
            load()
        except WeightsUnavailable as exc:
            if len(str(exc).split()) < 3:
                return f"{what}: {str(exc)!r} does not say what to do"
        except RAISED as exc:
            return f"{what}: a {type(exc).__name__} came instead: {exc}"
        else:
            return f"{what}: no error came"
    return None


def load_repeats(trial: PluginTrial) -> str | None:
    for name, backbone in trial.backbones.items():
        again = trial.plugin.load(name).info
        if again != backbone.info:
            return f"{trial.called(name)!r}: first {backbone.info}, then {again}"
    return None


def facts_agree(trial: PluginTrial) -> str | None:
    if not isinstance(trial.plugin, DescribingPlugin):
        return None
    for name, backbone in trial.backbones.items():
        facts, info = trial.plugin.facts(name), backbone.info
        if facts is None:
            continue
        told = (facts.licence, facts.n_parameters, facts.height, facts.width, facts.row_width)
        row_width = sum(tap.width for tap in info.taps)
        true = (info.licence, info.n_parameters, info.image.height, info.image.width, row_width)
        for said, is_so in zip(told, true, strict=True):
            if said is not None and said != is_so:
                return f"{trial.called(name)!r}: the facts say {said!r}, the backbone {is_so!r}"
    return None


def info_names_the_backbone(trial: PluginTrial) -> str | None:
    prefix = trial.where.stem if isinstance(trial.where, Path) else ""
    for name, backbone in trial.backbones.items():
        called = backbone.info.name
        head = called[: -len(name) - 1] if name else called
        if (prefix and head != prefix) or re.search("[/:]", head) or not called.endswith(name):
            wanted = f"{prefix or 'PREFIX'}/{name}" if name else prefix or "PREFIX"
            return f"`load({name!r})` gives one that calls itself {called!r}, not {wanted!r}"
    return None


def digests_tell_apart(trial: PluginTrial) -> str | None:
    for (one, first), (other, second) in combinations(trial.here.items(), 2):
        if build_digest(first.info, "", "") == build_digest(second.info, "", "") and difference(
            first.features, second.features
        ):
            return f"{trial.called(one)!r} and {trial.called(other)!r} declare the same and differ"
    return None


def same_info_elsewhere(trial: PluginTrial) -> str | None:
    for name in trial.names:
        here, there = trial.backbones[name].info, trial.there[name].info
        if here.weights_sha256 != there.weights_sha256:
            return (
                f"{trial.called(name)!r}: weights_sha256 {here.weights_sha256[:12]} here, "
                f"{there.weights_sha256[:12]} there"
            )
        if here != there:
            return f"{trial.called(name)!r}: {here} here, {there} there"
    return None


def same_features_elsewhere(trial: PluginTrial) -> str | None:
    for name in trial.names:
        if wrong := difference(trial.here[name].features, trial.there[name].features):
            return f"{trial.called(name)!r}: {wrong}"
    return None


def _without_weights(trial: PluginTrial) -> list[tuple[str, Spoiled]]:
    found: list[tuple[str, Spoiled]] = [
        (f"spoiled[{place}]", load) for place, load in enumerate(trial.spoiled)
    ]
    for pattern in trial.plugin.names():
        if match := _FILE.fullmatch(pattern):
            missing = trial.folder / f"missing{match[1] or ''}"
            junk = trial.folder / f"junk{match[1] or ''}"
            junk.write_bytes(b"not weights")
            found += [
                ("a file that is not there", partial(trial.plugin.load, str(missing))),
                ("a file of junk", partial(trial.plugin.load, str(junk))),
            ]
    return found
