"""What the plugins say of their backbones, joined with what the builds on disk know.

Plugins speak in the trainer; the builds lie in the state directory, which the app reads and no plugin sees.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tlserve.core.backbones import BackboneDescription, Speed, newest_speeds, typical_speed
from tlserve.core.errors import BackboneProblem, CorruptState, NotFound
from tlserve.core.messages import BackboneDescribed, BackboneEntry
from tlserve.core.precision import Precision
from tlserve.rpc.backend import BackboneLine
from tlserve.runtime import (
    SPEC_FILE,
    SPEED_FILE,
    BuildSpec,
    build_digest,
    measured_here,
    read_build_spec,
    read_speeds,
)


@dataclass(frozen=True, slots=True)
class _Build:
    spec: BuildSpec
    speeds: tuple[Speed, ...]
    """Measured on this machine."""


def backbone_lines(entries: Iterable[BackboneEntry], builds_dir: Path) -> list[BackboneLine]:
    """The catalogue, with the blanks that a plugin leaves filled from its newest build, and with speeds."""
    builds = _newest_builds(builds_dir)
    return [_line(entry, builds.get((entry.plugin, entry.name))) for entry in entries]


def backbone_description(
    told: BackboneDescribed, builds_dir: Path, precision: Precision = Precision.AUTO
) -> BackboneDescription:
    """What the trainer told, and what lies on disk of it at the precision that the settings name.

    Raises NotFound when no plugin offers it, BackboneProblem when it cannot be loaded.
    """
    found = told.backbone
    if found is None:
        text = told.error or "the backbone cannot be described"
        raise NotFound(text) if told.not_found else BackboneProblem(text)
    found = _as_decided(found, builds_dir, precision)
    folder = builds_dir / found.build
    speeds = newest_speeds((*measured_here(read_speeds(folder)), *found.speeds))
    try:
        read_build_spec(folder)
        n_bytes = sum(file.stat().st_size for file in folder.iterdir() if file.name != SPEED_FILE)
    except (CorruptState, OSError):
        return replace(found, speeds=speeds)
    return replace(found, build_folder=str(folder), build_bytes=n_bytes, speeds=speeds)


def _as_decided(found: BackboneDescription, builds_dir: Path, wanted: Precision) -> BackboneDescription:
    """The same of the build that models learn on here: the trainer may have looked at no state."""
    try:
        spec = read_build_spec(builds_dir / found.build)
        chosen = wanted.value
        if wanted is Precision.AUTO:
            chosen = spec.precision if spec.trial is None else spec.trial.chosen
        if chosen != spec.precision:
            spec = read_build_spec(builds_dir / build_digest(spec.info, spec.plugin, chosen))
    except CorruptState:
        return found
    return replace(found, build=spec.digest, precision=spec.precision, trial=spec.trial)


def _line(entry: BackboneEntry, build: _Build | None) -> BackboneLine:
    line = BackboneLine(**asdict(entry))
    if build is None or entry.error:
        return line
    spec, speed = build.spec, typical_speed(build.speeds)
    return replace(
        line,
        licence=line.licence or spec.licence,
        n_parameters=line.n_parameters or spec.n_parameters,
        height=line.height or spec.image.height,
        width=line.width or spec.image.width,
        row_width=line.row_width or spec.row_width,
        images_per_second=speed.images_per_second if speed else None,
        measured=speed.of if speed else "",
    )


def _newest_builds(builds_dir: Path) -> dict[tuple[str, str], _Build]:
    """By plugin and name; of several builds of one backbone the one made last."""
    made = []
    folders = builds_dir.iterdir() if builds_dir.is_dir() else ()
    for folder in folders:
        if not folder.name.startswith("."):
            try:
                made.append(((folder / SPEC_FILE).stat().st_mtime, folder, read_build_spec(folder)))
            except (CorruptState, OSError):
                continue
    return {
        (spec.plugin, spec.name): _Build(spec, measured_here(read_speeds(folder)))
        for _, folder, spec in sorted(made, key=lambda one: one[0])
    }
