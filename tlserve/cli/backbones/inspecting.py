"""`tlserve backbones inspect FILE`: what an ONNX file is, where to cut it, and the description it needs."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from tlserve.cli import wording
from tlserve.cli.backbones.showing import facts_table
from tlserve.cli.failing import FAILED, complain
from tlserve.cli.options import AsJson
from tlserve.cli.terminal import Listing, say, say_folded, show, show_json, show_listing
from tlserve.core.errors import BackboneProblem

if TYPE_CHECKING:
    from tlserve_onnx import Inspection

_MOST_NAMES = 6


def inspect_file(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="An ONNX file, such as model.onnx."),
    ],
    *,
    write: Annotated[
        bool,
        typer.Option("--write", help="Save the proposed description beside the file; never over one."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Look into an ONNX file: where its classifier begins, what may serve as taps.

    A description for `--backbone onnx:FILE` is proposed, one that is there is
    checked; the graph is run for it. Exit code 1 if the file is no backbone yet.
    """
    from tlserve_onnx import inspect, write_sidecar

    from tlserve.plugin_api import BackboneError

    try:
        found = inspect(file)
        written = write and not found.sidecar_exists and found.sidecar is not None
        if written:
            write_sidecar(found)
    except BackboneError as exc:
        raise BackboneProblem(str(exc)) from exc
    if as_json:
        show_json(plain_inspection(found, written=written))
    else:
        _show(found, written=written)
    if found.problem:
        if not as_json:
            complain(found.problem)
        raise typer.Exit(FAILED)
    if not as_json:
        _advise(found, write=write, written=written)


def plain_inspection(found: Inspection, *, written: bool) -> dict[str, Any]:
    """For JSON: paths as texts, and what became of the description."""
    facts = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    for name in ("inputs", "outputs", "candidates", "taps"):
        facts[name] = [dataclasses.asdict(one) for one in facts[name]]
    facts["classifier"] = None if found.classifier is None else dataclasses.asdict(found.classifier)
    facts.update(file=str(found.file), sidecar_path=str(found.sidecar_path), sidecar_written=written)
    return facts


def facts_of(found: Inspection) -> Iterator[tuple[str, str]]:
    """What the file is, line by line."""
    beside = f" with {_listed(found.data_files)}" if found.data_files else ""
    yield "file", f"{found.file}, {found.n_bytes / 1e6:,.1f} MB{beside}"
    made_by = f", made by {found.producer}" if found.producer else ""
    yield "format", f"ONNX opset {found.opset}, IR {found.ir_version}{made_by}"
    weights = ", ".join(f"{n:,} {kind}" for kind, n in found.weights.items()) or "none"
    yield "weights", f"{weights} ({found.quantisation})" if found.quantisation else weights
    for what, values in (("input", found.inputs), ("output", found.outputs)):
        for value in values[:_MOST_NAMES]:
            yield what, f"{value.name}: {value.type} {_shape(value.shape)}"
        if len(values) > _MOST_NAMES:
            yield what, f"... {len(values)} in all"
    if found.classifier is not None:
        one = found.classifier
        after = f", then {one.activation}" if one.activation else ""
        yield "classifier", f"{one.operator} {one.layer}, {one.n_in:,} to {one.n_out:,}{after}: it is cut off"
    elif found.candidates:
        yield "classifier", "none found: the features are an output of the graph"
    if found.sidecar_exists:
        yield "description", f"{found.sidecar_path}: {_judgement(found)}"
    if found.taps:
        taps = ", ".join(f"{tap.name} {tap.width:,}" for tap in found.taps)
        yield "row", f"{wording.count(sum(tap.width for tap in found.taps), 'number')} for each image: {taps}"


def _judgement(found: Inspection) -> str:
    if found.problem:
        return "wrong, see below"
    fields = " and ".join(found.to_fill_in)
    are = "is" if len(found.to_fill_in) == 1 else "are"
    return f"can be used once {fields} {are} filled in" if fields else "good"


def candidates_listing(found: Inspection) -> Listing:
    """Tensors that may serve as taps, shallow to deep; the name, which may be long, as the sentence."""
    rows = [(one.tap or "", _shape(one.shape), f"{one.width:,}", one.reason) for one in found.candidates]
    heading = "proposal" if found.sidecar_exists else "tap"
    names = [one.tensor for one in found.candidates]
    return Listing((heading, "shape", "width", "why"), rows, "tensor", names, ("width",))


def _show(found: Inspection, *, written: bool) -> None:
    show(facts_table(facts_of(found)))
    if found.candidates:
        show("")
        show_listing(candidates_listing(found))
    if found.sidecar is not None and (found.problem or not found.sidecar_exists):
        show("")
        state = "Saved as" if written else "Proposed for"
        show(Text(f"{state} {found.sidecar_path}:", style="bold"))
        show(found.sidecar_text())


def _advise(found: Inspection, *, write: bool, written: bool) -> None:
    """To the person, on stderr: what to know, and the next step."""
    say()
    for warning in found.warnings:
        say_folded(f"- {warning}", indent=0)
    name = shlex.quote(f"onnx:{found.file}")
    if found.sidecar_exists and write:
        say(f"{found.sidecar_path} was there already and is left as it is.")
    if not found.sidecar_exists and not written:
        say(f"Save this description: tlserve backbones inspect {shlex.quote(str(found.file))} --write")
    elif found.to_fill_in:
        fields = " and ".join(found.to_fill_in)
        say(f"Fill in {fields} in {found.sidecar_path}, check mean and std. Then:")
        say(f"  tlserve serve --backbone {name} ...")
    else:
        say(f"Use it: tlserve serve --backbone {name} ...")


def _shape(shape: tuple[int, ...] | list[int | str]) -> str:
    """[N, 24, 56, 56]: the first axis is the pictures'."""
    dims = shape if isinstance(shape, list) else ["N" if shape[0] == 1 else f"{shape[0]}N", *shape[1:]]
    return f"[{', '.join(str(dim) for dim in dims)}]"


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return f"{', '.join(names[:2])}{more}"
