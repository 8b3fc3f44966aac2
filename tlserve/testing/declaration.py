"""Checks of what a backbone says about itself. Each gives what is wrong, or None."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import re

from tlserve.core.promises import info_faults, tap_faults
from tlserve.plugin_api import Backbone, TrainableBackbone
from tlserve.testing.graphs import n_numbers
from tlserve.testing.trial import Trial

COUNTED_WITHIN = 2.0
"""Factor between the declared parameters and the graph's numbers: folded or quantised weights change them."""

_PLACEHOLDERS = re.compile(
    r"\W*(to ?do|tbd|fix ?me|x+|unknown|licen[cs]e|your licen[cs]e|somewhere|origin)?\W*", re.I
)
_EMPTY = hashlib.sha256(b"").hexdigest()


def is_a_backbone(trial: Trial) -> str | None:
    given: object = trial.backbone
    return None if isinstance(given, Backbone) else f"{type(given).__name__} lacks one of them"


def info_is_sound(trial: Trial) -> str | None:
    info = trial.backbone.info
    taps = tap_faults(getattr(info, "taps", ()))
    return _joined(tuple(fault for fault in info_faults(info) if fault not in taps))


def taps_are_sound(trial: Trial) -> str | None:
    return _joined(tap_faults(trial.backbone.info.taps))


def licence_and_origin(trial: Trial) -> str | None:
    info = trial.backbone.info
    told = {"licence": info.licence, "weights_origin": info.weights_origin}
    return _joined(
        tuple(f"{field} says {text!r}" for field, text in told.items() if _PLACEHOLDERS.fullmatch(text))
    )


def digest_is_real(trial: Trial) -> str | None:
    digest = trial.backbone.info.weights_sha256
    if digest == _EMPTY:
        return "it is the digest of no bytes at all"
    return f"{digest[:8]}... was typed, not computed" if len(set(digest)) < 4 else None


def info_is_stable(trial: Trial) -> str | None:
    first, second = trial.backbone.info, trial.backbone.info
    return None if first == second else f"first {first}, then {second}"


def info_is_picklable(trial: Trial) -> str | None:
    info = trial.backbone.info
    copy = pickle.loads(pickle.dumps(info))
    return None if copy == info else f"{info} became {copy}"


def info_is_plain(trial: Trial) -> str | None:
    """As a build's spec.json keeps it: numbers of numpy or torch do not pass, nor do lists for tuples."""
    declared = dataclasses.asdict(trial.backbone.info)
    hash(trial.backbone.info)
    for field, value in _numbers("info", declared):
        if type(value) not in (str, int, float, type(None)):
            return f"{field} is a {type(value).__module__}.{type(value).__qualname__}"
    json.dumps(declared, allow_nan=False)
    return None


def parameters_are_counted(trial: Trial) -> str | None:
    declared = trial.backbone.info.n_parameters
    if isinstance(trial.backbone, TrainableBackbone):
        module = trial.backbone.torch_module().module
        held = sum(parameter.numel() for parameter in module.parameters())
        return None if held == declared else f"{declared:,} are declared, the torch module has {held:,}"
    held = n_numbers(trial.model)
    if held / COUNTED_WITHIN <= declared <= held * COUNTED_WITHIN:
        return None
    return f"{declared:,} are declared, the graph holds {held:,} numbers"


def _numbers(path: str, value: object) -> list[tuple[str, object]]:
    if isinstance(value, dict):
        return [leaf for key, part in value.items() for leaf in _numbers(f"{path}.{key}", part)]
    if isinstance(value, list | tuple):
        return [leaf for part in value for leaf in _numbers(path, part)]
    return [(path, value)]


def _joined(faults: tuple[str, ...]) -> str | None:
    return "; ".join(faults) or None
