"""Everything that can be told about an ONNX file before it is used, with the description it should have."""

from __future__ import annotations

import collections
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnx import helper

from tlserve.plugin_api import BackboneError, Tap, WeightsUnavailable

from . import graph
from .classifier import Classifier
from .cutting import cut_model
from .proposing import Candidate, Proposal, propose, sidecar_facts
from .reading import Source, opset_of, plain_model, read_source
from .sidecar import parse_sidecar, read_sidecar, sidecar_path
from .survey import Survey, survey

_TRAINING_MODE = "the graph holds {} in training mode: export the model again after model.eval()"


@dataclass(frozen=True, slots=True)
class Value:
    """An input or output of the graph."""

    name: str
    type: str
    shape: list[int | str]


@dataclass(frozen=True)
class Inspection:
    """A file, what was found in it, and the description proposed for it."""

    file: Path
    n_bytes: int
    data_files: tuple[str, ...]
    ir_version: int
    opset: int
    producer: str
    weights: dict[str, int]
    """How many weights of each type, the commonest first."""
    quantisation: str
    """`QDQ`, `QOperator`, `dynamic` or empty."""
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    sidecar_path: Path
    sidecar_exists: bool
    problem: str = ""
    """Why this file cannot be a backbone as it is (or as its description says); empty if it can."""
    classifier: Classifier | None = None
    candidates: tuple[Candidate, ...] = ()
    sidecar: dict[str, Any] | None = None
    """The proposed description; None where a problem stands in its way."""
    to_fill_in: tuple[str, ...] = ()
    """Fields of the description that only a person can fill in: of the one there is, else of the proposed."""
    taps: tuple[Tap, ...] = ()
    """What the graph gave when it was cut: by the description beside the file, else by the proposed one."""
    warnings: tuple[str, ...] = ()

    def sidecar_text(self) -> str:
        """The proposed description as JSON, short lists and objects on one line, as people write it."""
        text = json.dumps(self.sidecar, indent=2, ensure_ascii=False)
        return re.sub(r'[\[{]\s+(?:-?\d|"tensor")[^][{}]*[\]}]', _one_line, text)


def inspect(path: Path) -> Inspection:
    """Read, run and describe a file; what is wrong with it as a backbone stands in `problem`.

    Raises WeightsUnavailable or BackboneError for a file that cannot be read at all.
    """
    return _inspected(read_source(path))


def write_sidecar(found: Inspection) -> None:
    """Save the proposed description beside the file. Raises WeightsUnavailable; never overwrites one."""
    if found.sidecar is None:
        raise WeightsUnavailable(f"there is no description to write for {found.file}: {found.problem}")
    try:
        with found.sidecar_path.open("x", encoding="utf-8") as file:
            file.write(found.sidecar_text() + "\n")
    except FileExistsError as exc:
        raise WeightsUnavailable(f"{found.sidecar_path} is there already and is left as it is") from exc
    except OSError as exc:
        raise WeightsUnavailable(f"cannot write {found.sidecar_path}: {exc.strerror}") from exc


def explain_missing(source: Source) -> str:
    """What to do about a file without a description, as the text of an error."""
    found = _inspected(source)
    if found.sidecar is None:
        return f"{found.file} cannot be a backbone: {found.problem}"
    quoted = shlex.quote(str(found.file))
    return (
        f"{found.file} needs a description beside it, {found.sidecar_path.name}. "
        f"Write it with: tlserve backbones inspect {quoted} --write"
    )


def _inspected(source: Source) -> Inspection:
    model = source.model
    beside = sidecar_path(source.path)
    found = Inspection(
        file=source.path,
        n_bytes=source.n_bytes,
        data_files=source.data_files,
        ir_version=int(model.ir_version),
        opset=opset_of(model),
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        weights=_weights(model),
        quantisation=_quantisation(model),
        inputs=tuple(_value(value) for value in graph.image_inputs(model).values()),
        outputs=tuple(_value(value) for value in model.graph.output),
        sidecar_path=beside,
        sidecar_exists=beside.exists(),
    )
    try:
        plain = plain_model(source)
        surveyed = survey(plain)
        proposal = propose(surveyed, plain)
    except BackboneError as exc:
        return replace(found, problem=str(exc))
    found = replace(
        found,
        classifier=proposal.classifier,
        candidates=proposal.candidates,
        warnings=tuple(_warnings(found, surveyed, plain)),
    )
    return _tried(found, surveyed, proposal, plain)


def _tried(found: Inspection, surveyed: Survey, proposal: Proposal, plain: Any) -> Inspection:
    """Cut by the description that is there, else by the proposed one, and run it as loading would."""
    facts = sidecar_facts(found.file.stem, surveyed, proposal)
    try:
        described = parse_sidecar(facts)
        taps = cut_model(plain, described).taps
        found = replace(found, sidecar=facts, taps=taps, to_fill_in=described.to_fill_in())
    except BackboneError as exc:
        found = replace(found, problem=str(exc))
    if not found.sidecar_exists:
        return replace(found, warnings=(*found.warnings, _about_mean(found, surveyed, proposal)))
    try:
        own = read_sidecar(found.sidecar_path)
    except BackboneError as exc:
        return replace(found, problem=str(exc), taps=(), to_fill_in=())
    found = replace(found, to_fill_in=own.to_fill_in())
    try:
        found = replace(found, problem="", taps=cut_model(plain, own).taps)
    except BackboneError as exc:
        return replace(found, problem=f"{found.sidecar_path}: {exc}", taps=())
    expected = proposal.normalisation
    as_proposed = (own.image.mean, own.image.std) == (expected.mean, expected.std)
    if as_proposed == expected.is_certain:
        return found
    doubt = f"mean and std should be {_three(expected.mean)} and {_three(expected.std)}: {expected.reason}"
    if as_proposed:
        doubt = _about_mean(found, surveyed, proposal)
    return replace(found, warnings=(*found.warnings, doubt))


def _three(numbers: tuple[float, float, float]) -> str:
    return f"[{', '.join(f'{number:g}' for number in numbers)}]"


def _about_mean(found: Inspection, surveyed: Survey, proposal: Proposal) -> str:
    """What is known of the proposed mean and std."""
    if proposal.normalisation.is_certain:
        return f"mean and std: {proposal.normalisation.reason}"
    hint = ""
    if "tf2onnx" in found.producer or surveyed.layout == "NHWC":
        hint = ". Keras networks often want 127.5 and 127.5, or 0 and 1"
    guess = f"mean and std are {proposal.normalisation.reason}"
    return f"{guess}; look them up where the file comes from{hint}"


def _warnings(found: Inspection, surveyed: Survey, plain: Any) -> Iterator[str]:
    """What a person should know or check, most pressing first."""
    yield from _training_mode(plain)
    if surveyed.batch_problem:
        yield (
            f"the batch is fixed and cannot be made free ({surveyed.batch_problem}): "
            "export the model again with a free (dynamic) batch dimension"
        )
    elif surveyed.batch_was_fixed:
        yield "the batch size is fixed in the file; it is made free"
    if found.quantisation == "dynamic":
        yield (
            "the file is quantised dynamically: its scales are taken over the whole batch, so an image's "
            "features depend on the others unless only the classifier is quantised"
        )
    elif found.quantisation:
        yield (
            "8-bit numbers: processors differ in how they round them, so judge it on the machine that serves"
        )
    if surveyed.size_is_free:
        size = f"{surveyed.height}x{surveyed.width}"
        yield f"the picture's size is free: {size} ran; put in the size it was trained at"
    others = [one.name for one in found.inputs if one.name != surveyed.input]
    if others:
        yield f"what needs the inputs {', '.join(others)} is left out: a backbone takes one picture"
    if any(kind in found.weights for kind in ("float16", "bfloat16")):
        yield "half precision is computed in float32"


def _training_mode(plain: Any) -> Iterator[str]:
    for node in plain.graph.node:
        trains = any(a.name == "training_mode" and a.i for a in node.attribute)
        if node.op_type == "BatchNormalization" and trains:
            yield _TRAINING_MODE.format("batch normalisation")
            return


def _weights(model: Any) -> dict[str, int]:
    counted: collections.Counter[str] = collections.Counter()
    for tensor in graph.weights(model.graph):
        kind = str(helper.tensor_dtype_to_np_dtype(tensor.data_type).name)
        counted[kind] += graph.size_of(tensor)
    return {kind: n for kind, n in counted.most_common() if n}


def _quantisation(model: Any) -> str:
    operators = {node.op_type for node in model.graph.node}
    if "DynamicQuantizeLinear" in operators:
        return "dynamic"
    if any(operator.startswith("QLinear") or operator == "QGemm" for operator in operators):
        return "QOperator"
    return "QDQ" if "DequantizeLinear" in operators else ""


def _value(value: Any) -> Value:
    return Value(value.name, graph.type_name(value), graph.static_shape(value))


def _one_line(match: re.Match[str]) -> str:
    inside = match.group(0)
    return f"{inside[0]}{' '.join(inside[1:-1].split())}{inside[-1]}"
