"""Whole graphs as files: one version for whoever asks, live and pinned ones as a Triton repository.

No graph leaves before ONNX Runtime has run it and given what `core.head` gives. Needs onnx: trainer
only; import it by its own name.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from tlserve.core.errors import CorruptState
from tlserve.core.head import Head, answers
from tlserve.core.types import Rows
from tlserve.release.disk import fill_folder, replace_file, store_errors, sync_folder
from tlserve.release.graph import FEATURES, NOVELTY, PROBABILITIES, metadata, whole_graph
from tlserve.release.manifest import Version
from tlserve.release.triton_config import LABELS_FILE, labels_text, triton_config
from tlserve.runtime import (
    GRAPH_INPUT,
    REFERENCE_FILE,
    BuildSpec,
    read_build_spec,
    reference_pixels,
    reference_tolerance,
)

TOLERANCE = 1e-4
"""Largest difference of a probability or a novelty between the exported graph and numpy."""
ROUNDING = 3e-7
"""Of how far an image is, in float32; what it comes to in novelty depends on how steep the curve is."""
MODEL_FILE = "model.onnx"
_WRITING = ".writing-"


def export_graph(version: Version, build_folder: Path, out: Path) -> None:
    """Write the whole graph of `version` to `out`, in one step, the same bytes each time.

    build_folder: of the build its manifest names. Raises CorruptState when the two do not fit or the graph
    does not give what the version gives; StoreUnavailable when `out` cannot be written.
    """
    data = checked_graph(version, build_folder)
    with store_errors(out, "write"):
        replace_file(out, data)


def write_triton(
    versions: Sequence[Version],
    build_folders: Mapping[str, Path],
    triton_dir: Path,
    *,
    live: int,
    pinned: Sequence[int] = (),
) -> Path:
    """Bring `triton_dir/<model>` in line with LIVE and return it.

    versions: the live and pinned ones, all of one model; build_folders: by build digest. New graphs come
    first, then the configuration that names them, and only then stale ones go: a Triton server that looks
    in between finds whatever it is told to load. Raises CorruptState, StoreUnavailable.
    """
    wanted = {version.number: version for version in versions if version.number in {live, *pinned}}
    if live not in wanted:
        raise ValueError(f"version {live} is live, but not among those to export")
    folder = triton_dir / wanted[live].model
    specs = {number: read_build_spec(build_folders[v.manifest.build]) for number, v in wanted.items()}
    with store_errors(folder, "write"):
        folder.mkdir(parents=True, exist_ok=True)
        _remove(folder, (name for name in _subfolders(folder) if name.startswith(_WRITING)))
    for number, version in sorted(wanted.items()):
        _write_version(version, specs[number], build_folders[version.manifest.build], folder)
    listed = [n for n in sorted(wanted) if _same_signature(wanted[n], specs[n], wanted[live], specs[live])]
    with store_errors(folder, "write"):
        replace_file(folder / LABELS_FILE, labels_text(wanted[live].head.labels).encode())
        config = triton_config(wanted[live].model, specs[live].image, wanted[live].head, listed)
        replace_file(folder / "config.pbtxt", config.encode())
        stale = (name for name in _subfolders(folder) if name.isdecimal() and int(name) not in wanted)
        _remove(folder, stale)
    return folder


def checked_graph(version: Version, build_folder: Path) -> bytes:
    """The file's bytes, after ONNX's own checker and a run on the reference pictures."""
    spec = read_build_spec(build_folder)
    if spec.digest != version.manifest.build:
        raise CorruptState(
            f"model {version.model!r} version {version.number} needs the build {version.manifest.build}, "
            f"but {build_folder} holds {spec.digest}"
        )
    model = whole_graph(version, spec, build_folder)
    data = model.SerializeToString(deterministic=True)
    try:
        onnx.checker.check_model(data, full_check=True)
        features, probabilities, novelty = _run(data, spec)
    except Exception as exc:  # onnx and onnxruntime raise classes of their own for each status
        raise CorruptState(f"{_graph_of(version)} does not run: {exc}") from exc
    _compare_features(version, spec, build_folder, features)
    _compare_answers(version, features, probabilities, novelty)
    return bytes(data)


def _run(data: bytes, spec: BuildSpec) -> tuple[Rows, Rows, Rows]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(data, sess_options=options, providers=["CPUExecutionProvider"])
    outputs = [FEATURES, PROBABILITIES, NOVELTY]
    features, probabilities, novelty = session.run(outputs, {GRAPH_INPUT: reference_pixels(spec.image)})
    return np.asarray(features), np.asarray(probabilities), np.asarray(novelty)


def _compare_features(version: Version, spec: BuildSpec, build_folder: Path, features: Rows) -> None:
    path = build_folder / REFERENCE_FILE
    try:
        reference = np.load(path, allow_pickle=False)[:, spec.columns(version.head.taps)]
    except (OSError, ValueError, EOFError, IndexError) as exc:
        mend = f"delete {build_folder}, it is built again"
        raise CorruptState(f"{path} cannot be read ({exc}); {mend}") from exc
    width_of = {tap.name: tap.width for tap in spec.taps}
    start = 0
    for tap in version.head.taps:
        columns = slice(start, start + width_of[tap])
        start = columns.stop
        size = max(_root_mean_square(reference[:, columns]), 1e-6)
        drift = _root_mean_square(features[:, columns] - reference[:, columns]) / size
        # Another processor, or a GPU, may have made those rows.
        if not drift <= reference_tolerance(spec, tap):
            told = f"gives features {drift:.2g} away from {path} for tap {tap!r}, relatively"
            raise CorruptState(f"{_graph_of(version)} {told}")


def _root_mean_square(values: Rows) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def _compare_answers(version: Version, features: Rows, probabilities: Rows, novelty: Rows) -> None:
    own_probabilities, own_novelty = answers(version.head, features)
    for what, given, own, most in (
        ("probabilities", probabilities, own_probabilities, TOLERANCE),
        ("novelty", novelty, own_novelty, max(TOLERANCE, ROUNDING * _steepest(version.head))),
    ):
        worst = float(np.abs(given - own).max())
        if not worst <= most:
            raise CorruptState(f"{_graph_of(version)} gives {what} {worst:.2g} away from the head's own")


def _steepest(head: Head) -> float:
    """Most ranks per unit of distance; curves of older heads may be as good as upright."""
    if head.novelty is None:
        return 0.0
    widths = np.maximum(np.diff(head.novelty.distances), np.float32(1e-12))
    return float((np.diff(head.novelty.ranks) / widths).max())


def _graph_of(version: Version) -> str:
    return f"the exported graph of model {version.model!r} version {version.number}"


def _write_version(version: Version, spec: BuildSpec, build_folder: Path, folder: Path) -> None:
    """``<n>/model.onnx``, whole or not at all; left alone when it is there already."""
    final = folder / str(version.number)
    if _holds(final / MODEL_FILE, version, spec):
        return
    data = checked_graph(version, build_folder)
    with store_errors(final, "write"):
        aside = folder / f"{_WRITING}{uuid.uuid4().hex}"
        try:
            fill_folder(aside, {MODEL_FILE: data})
            if final.exists():
                shutil.rmtree(final)
            aside.rename(final)
        except OSError:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        sync_folder(folder)


def _holds(path: Path, version: Version, spec: BuildSpec) -> bool:
    """Whether `path` is the graph of this very version: a number alone could come from an older state."""
    try:
        found = {entry.key: entry.value for entry in onnx.load(str(path)).metadata_props}
    except Exception:  # missing or damaged alike: it is written anew
        return False
    return found == metadata(version, spec)


def _same_signature(one: Version, spec: BuildSpec, live: Version, live_spec: BuildSpec) -> bool:
    """Triton has one configuration for all versions of a model: others are there as files only."""
    size, live_size = (spec.image.height, spec.image.width), (live_spec.image.height, live_spec.image.width)
    return (one.head.labels, one.head.n_features, size) == (live.head.labels, live.head.n_features, live_size)


def _subfolders(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if entry.is_dir()]


def _remove(folder: Path, names: Iterable[str]) -> None:
    for name in list(names):
        shutil.rmtree(folder / name)
