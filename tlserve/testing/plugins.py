"""`check_plugin`: the promises of a plugin as a whole, and then those of each of its backbones."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tlserve.testing import offers
from tlserve.testing.kit import CHECKS, chosen, fail_if_wrong, run_checks


@dataclass(frozen=True, slots=True)
class PluginCheck:
    """One promise of a plugin and the way to test it."""

    name: str
    promise: str
    run: Callable[[offers.PluginTrial], str | None]
    """Gives what is wrong, in words, or None."""


_OFFER = (
    PluginCheck("is_a_plugin", "a plugin has `names` and `load`", offers.is_a_plugin),
    PluginCheck("names_are_listed", "`names` lists different texts", offers.names_are_listed),
    PluginCheck(
        "names_are_loaded", "`load` gives a backbone for each name that is listed", offers.names_are_loaded
    ),
    PluginCheck(
        "unknown_name",
        "for another name `load` raises UnknownArchitecture with those there are",
        offers.unknown_name,
    ),
    PluginCheck(
        "unusable_weights",
        "for missing or wrong weights `load` raises WeightsUnavailable with what to do",
        offers.unusable_weights,
    ),
    PluginCheck("load_repeats", "`load` gives the same `info` each time", offers.load_repeats),
    PluginCheck("facts_agree", "`facts` agree with the `info` of what is loaded", offers.facts_agree),
    PluginCheck("info_names_the_backbone", "`info.name` is what users write", offers.info_names_the_backbone),
)
_FEATURES = (
    PluginCheck(
        "digests_tell_apart",
        "backbones with other features differ in weights, build version, image or taps",
        offers.digests_tell_apart,
    ),
    PluginCheck(
        "same_info_elsewhere", "another process finds the same weights and `info`", offers.same_info_elsewhere
    ),
    PluginCheck(
        "same_features_elsewhere", "another process gives the same features", offers.same_features_elsewhere
    ),
)
PLUGIN_CHECKS: tuple[PluginCheck, ...] = (*_OFFER, *_FEATURES)


def check_plugin(
    where: str | Path,
    names: Sequence[str] | None = None,
    *,
    spoiled: Sequence[Callable[[], object]] = (),
    checks: Collection[str] | None = None,
) -> None:
    """Run every check of `PLUGIN_CHECKS`, and of `CHECKS` on each backbone; or only those in `checks`.

    where: as in pyproject.toml, ``"tlserve_mine:PLUGIN"``; or a Path, for a single-file plugin.
    names: what users write after the prefix; all that the plugin lists, patterns aside, unless given.
    spoiled: calls that load with weights that are missing or damaged; for a plugin that lists ``FILE``,
        a missing file and one of junk are tried without being told.

    Takes tens of seconds; minutes on a busy machine or for large networks. Another Python process is started
    once, to see the plugin afresh.
    Raises CheckFailed (an AssertionError) at the first broken promise, naming it; ValueError for a name in
    `checks` that is no check.
    """
    of_backbones = [check.name for check in CHECKS]
    wanted = chosen(checks, [*(check.name for check in PLUGIN_CHECKS), *of_backbones])
    with tempfile.TemporaryDirectory(prefix="check-plugin-") as folder:
        trial = offers.PluginTrial(where, names, spoiled, Path(folder))
        _run(_OFFER, trial, wanted)
        if wanted.intersection(of_backbones):
            for name, of_one in trial.trials.items():
                run_checks(of_one, wanted, of=f"backbone {trial.called(name)!r}")
        _run(_FEATURES, trial, wanted)


def _run(checks: Sequence[PluginCheck], trial: offers.PluginTrial, wanted: Collection[str]) -> None:
    for check in checks:
        if check.name in wanted:
            fail_if_wrong(check.name, check.promise, partial(check.run, trial))
