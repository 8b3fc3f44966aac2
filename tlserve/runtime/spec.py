"""What a build is, apart from its graph: its name by content, its taps, and the pictures it is checked with.

A build folder `backbones/<digest>/` holds three files. `backbone.onnx`: input `pixels` uint8
[N, H, W, 3] RGB, output `rows` float32 [N, row_width]. `spec.json`: a `BuildSpec`. `reference.npy`:
what the graph gave for `reference_pixels` on the host that built it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tlserve.core.errors import CorruptState, StoreUnavailable
from tlserve.core.precision import PrecisionTrial
from tlserve.core.types import Pixels
from tlserve.plugin_api import BackboneInfo, ImageSpec, Tap

GRAPH_FILE = "backbone.onnx"
SPEC_FILE = "spec.json"
REFERENCE_FILE = "reference.npy"
GRAPH_INPUT = "pixels"
GRAPH_OUTPUT = "rows"
N_REFERENCE_IMAGES = 8

_REFERENCE_SEED = 20240229


@dataclass(frozen=True, slots=True)
class BuildSpec:
    """spec.json: everything that is declared about a build."""

    digest: str
    name: str
    """The backbone, as users write it."""
    plugin: str
    precision: str
    """fp32, or what the graph was reduced to."""
    image: ImageSpec
    taps: tuple[Tap, ...]
    licence: str
    n_parameters: int
    weights_origin: str
    weights_sha256: str
    build_version: str
    made_on: str = ""
    """The processor that made it, in words; empty in older builds. As `trial`, no part of the digest."""
    trial: PrecisionTrial | None = None
    """What was decided about precision for this backbone, and the numbers; None: nothing yet."""

    @classmethod
    def of(cls, info: BackboneInfo, plugin: str, precision: str = "fp32") -> BuildSpec:
        """The spec of the build that `plugin` makes of the backbone `info` at this precision."""
        declared = {field.name: getattr(info, field.name) for field in dataclasses.fields(info)}
        digest = build_digest(info, plugin, precision)
        return cls(digest=digest, plugin=plugin, precision=precision, **declared)

    @property
    def info(self) -> BackboneInfo:
        """The backbone's declaration, as its plugin made it."""
        return BackboneInfo(**{f.name: getattr(self, f.name) for f in dataclasses.fields(BackboneInfo)})

    @property
    def row_width(self) -> int:
        """Numbers in one row: the widths of all taps together."""
        return sum(tap.width for tap in self.taps)

    def columns(self, taps: Iterable[str]) -> slice | npt.NDArray[np.intp]:
        """Which columns of a row hold these taps, side by side in the order asked.

        A slice where the taps are neighbours (so that indexing copies nothing), else column numbers.
        Raises CorruptState for a tap that this build does not have.
        """
        ends = list(itertools.accumulate(tap.width for tap in self.taps))
        span_of = {tap.name: (end - tap.width, end) for tap, end in zip(self.taps, ends, strict=True)}
        wanted = tuple(taps)
        unknown = [tap for tap in wanted if tap not in span_of]
        if unknown or not wanted:
            asked = ", ".join(unknown) or "(none asked)"
            raise CorruptState(f"backbone {self.name!r} has no tap {asked}; it has {', '.join(span_of)}")
        spans = [span_of[tap] for tap in wanted]
        if all(end == start for (_, end), (start, _) in itertools.pairwise(spans)):
            return slice(spans[0][0], spans[-1][1])
        return np.concatenate([np.arange(start, end) for start, end in spans])

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> BuildSpec:
        """Inverse of `to_json`; raises ValueError, TypeError or KeyError for anything else."""
        raw: dict[str, Any] = json.loads(text)
        image = raw.pop("image")
        image |= {"mean": tuple(image["mean"]), "std": tuple(image["std"])}
        taps = tuple(Tap(**tap) for tap in raw.pop("taps"))
        trial = raw.pop("trial", None)
        trial = None if trial is None else PrecisionTrial(**trial)
        return cls(image=ImageSpec(**image), taps=taps, trial=trial, **raw)


def build_digest(info: BackboneInfo, plugin: str, precision: str) -> str:
    """sha256 (hex) over what is declared, never over the graph.

    So a new torch or onnx, which writes the same network as other bytes, voids no cached row. The
    backbone's name and the words about its licence and origin are left out: they change no feature.
    """
    declared = {
        "plugin": plugin,
        "precision": precision,
        "build_version": info.build_version,
        "weights_sha256": info.weights_sha256,
        "image": dataclasses.asdict(info.image),
        "taps": [dataclasses.asdict(tap) for tap in info.taps],
    }
    canonical = json.dumps(declared, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def write_build_spec(folder: Path, spec: BuildSpec) -> None:
    """Write spec.json into `folder`, which exists, and sync it. Raises OSError."""
    _write_synced(folder / SPEC_FILE, spec.to_json())


def record_trial(build: Path, trial: PrecisionTrial) -> None:
    """Keep `trial` in the spec.json of the build in folder `build`, in place of an earlier one, in one step.

    Raises CorruptState when that file is unreadable, StoreUnavailable when it cannot be written.
    """
    spec = dataclasses.replace(read_build_spec(build), trial=trial)
    scratch = build / f".{SPEC_FILE}"
    try:
        _write_synced(scratch, spec.to_json())
        scratch.replace(build / SPEC_FILE)
    except OSError as exc:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise StoreUnavailable(f"cannot write {build / SPEC_FILE}: {exc}") from exc


def read_build_spec(folder: Path) -> BuildSpec:
    """The spec of the build in `folder`; raises CorruptState when it is missing, unreadable or altered."""
    path = folder / SPEC_FILE
    try:
        spec = BuildSpec.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as exc:
        raise CorruptState(f"{path} is not a readable build spec ({exc}); {_mend(folder)}") from exc
    if spec.digest != build_digest(spec.info, spec.plugin, spec.precision):
        raise CorruptState(f"{path} declares something else than its digest names; {_mend(folder)}")
    return spec


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _mend(folder: Path) -> str:
    return f"delete {folder}, it is built again"


def reference_pixels(spec: ImageSpec) -> Pixels:
    """Eight synthetic pictures, (8, H, W, 3) uint8, the same on every machine.

    Smooth waves with noise on top, in whole numbers only: no rounding of floats and no random
    distribution that a new numpy may draw differently.
    """
    n, h, w = N_REFERENCE_IMAGES, spec.height, spec.width
    image, row, column, channel = np.ogrid[:n, :h, :w, :3]
    across = (column * (image + 1) * 510) // w + channel * 85
    down = (row * (n - image) * 510) // h + image * 40
    smooth = (_triangle(across) + _triangle(down)) // 2
    words = np.random.PCG64(_REFERENCE_SEED).random_raw(-(-smooth.size // 8))
    noise = words.astype("<u8").view(np.uint8)[: smooth.size].reshape(smooth.shape)
    return ((smooth * 3 + noise) // 4).astype(np.uint8)


def _triangle(phase: npt.NDArray[np.int_]) -> npt.NDArray[np.int_]:
    """A wave between 0 and 255 with period 510."""
    return np.asarray(np.abs(phase % 510 - 255))
