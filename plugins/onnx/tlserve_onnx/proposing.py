"""From a survey of the graph to a description: which output counts, where to cut, what else may serve."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Any

from tlserve.plugin_api import LAST_TAP, BackboneError, Layout

from .classifier import Classifier, find_classifier, looks_like_features
from .layouts import channel_axes
from .normalising import Normalisation, normalisation_of
from .sidecar import FILL_IN, TapSource, Tokens
from .stages import stages_of
from .survey import Survey, Tensor

_REGISTERS = (1, 2, 5, 9)
"""Tokens that stand for no patch: a class token, with one for distillation or with registers."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A tensor that may serve as a tap."""

    tensor: str
    shape: tuple[int, ...]
    """For one picture."""
    width: int
    """Numbers that one picture gets from it, after the averaging over space."""
    tap: str | None
    """Under which name it is proposed; None where it is there to be chosen."""
    source: str | dict[str, str]
    """What to write into the description for it."""
    reason: str


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a description of this graph should say, as far as the graph tells."""

    candidates: tuple[Candidate, ...]
    """Shallow to deep."""
    classifier: Classifier | None
    normalisation: Normalisation

    def taps(self) -> dict[str, str | dict[str, str]]:
        return {one.tap: one.source for one in self.candidates if one.tap is not None}


def propose(survey: Survey, model: Any) -> Proposal:
    """Raises BackboneError where the graph computes nothing for each picture."""
    classifier, features = _main_end(survey)
    axes = channel_axes(survey)
    stages = [stage for stage in stages_of(survey, features) if stage.tensor != features]
    found = []
    n_proposed = 0
    for stage in stages:
        n_proposed += stage.is_proposed
        tap = f"stage{n_proposed}" if stage.is_proposed else None
        found.append(_candidate(survey, axes, stage.tensor, tap, stage.reason))
    found.append(_candidate(survey, axes, features, LAST_TAP, _why_features(survey, features, classifier)))
    for output in survey.outputs:
        fits = output in survey.tensors and len(survey.tensors[output].shape) in (2, 3, 4)
        if fits and output not in {one.tensor for one in found} and not survey.tensors[output].is_split:
            found.append(_candidate(survey, axes, output, None, "an output of the graph"))
    return Proposal(tuple(found), classifier, normalisation_of(survey, model))


def sidecar_facts(name: str, survey: Survey, proposal: Proposal) -> dict[str, Any]:
    """The description as a JSON object, with two fields left for a person."""
    normalisation = proposal.normalisation
    return {
        "name": name,
        "licence": f"{FILL_IN}: the licence of the weights",
        "weights_origin": f"{FILL_IN}: where the file comes from",
        "input": survey.input,
        "image": {
            "height": survey.height,
            "width": survey.width,
            "resize_short_side": max(survey.height, survey.width) * 8 // 7,
            "crop": "center",
            "interpolation": "bilinear",
            "layout": survey.layout,
            "mean": [_short(number) for number in normalisation.mean],
            "std": [_short(number) for number in normalisation.std],
        },
        "taps": proposal.taps(),
    }


def _main_end(survey: Survey) -> tuple[Classifier | None, str]:
    """The classifier that is cut off, if there is one, and the tensor that is proposed as `features`."""
    usable = [name for name in survey.outputs if name in survey.tensors]
    classifiers = [found for output in usable if (found := find_classifier(survey, output))]
    if classifiers:
        # A network with auxiliary outputs has several; the deepest is the real one.
        deepest = max(classifiers, key=lambda one: survey.tensors[one.features].place)
        return deepest, deepest.features
    floats = [survey.tensors[name] for name in usable if _may_be_features(survey.tensors[name])]
    if floats:
        return None, min(floats, key=_rank_as_features).name
    inside = [tensor for tensor in survey.tensors.values() if _may_be_features(tensor)]
    if not inside:
        raise BackboneError("nothing in the graph is computed for each picture from the picture alone")
    return None, inside[-1].name


def _may_be_features(tensor: Tensor) -> bool:
    return tensor.is_float and not tensor.is_split and len(tensor.shape) in (2, 3, 4)


def _rank_as_features(tensor: Tensor) -> tuple[bool, int]:
    return (not (len(tensor.shape) == 2 and looks_like_features(tensor.name)), len(tensor.shape))


def _why_features(survey: Survey, features: str, classifier: Classifier | None) -> str:
    kind = {3: ", the class token is taken", 4: ", averaged over space"}.get(
        len(survey.tensors[features].shape), ""
    )
    if len(survey.tensors[features].shape) == 3 and _tokens(survey, survey.tensors[features]) == "mean":
        kind = ", the mean of the tokens"
    if classifier is not None:
        return f"the classifier's input{kind}"
    if features in survey.outputs:
        return f"the graph's output{kind}"
    return f"the deepest that needs the picture alone{kind}"


def _candidate(survey: Survey, axes: Any, name: str, tap: str | None, reason: str) -> Candidate:
    tensor = survey.tensors[name]
    axis = axes[name]
    layout: Layout | None = None
    tokens: Tokens = "mean"
    if len(tensor.shape) == 4:
        found: Layout = "NHWC" if axis == 3 else "NCHW"
        layout = None if found == survey.layout else found
    if len(tensor.shape) == 3 and tap == LAST_TAP:
        tokens = _tokens(survey, tensor)
    source = TapSource(name, layout, tokens).written()
    return Candidate(name, tensor.shape, tensor.shape[axis], tap, source, reason)


def _tokens(survey: Survey, tensor: Tensor) -> Tokens:
    """The class token, where the number of tokens shows one: 197 are 14 x 14 patches and it."""
    n = tensor.shape[1]
    has_class_token = not _is_square(n) and any(_is_square(n - extra) for extra in _REGISTERS if n > extra)
    return "first" if has_class_token and survey.height == survey.width else "mean"


def _is_square(n: int) -> bool:
    return isqrt(n) ** 2 == n


def _short(number: float) -> float | int:
    return int(number) if number == int(number) else number
