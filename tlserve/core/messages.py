"""What the daemon and the trainer say to each other: frozen dataclasses, one JSON object a line.

Events carry the id of their job, and a job's results may be told twice: whoever receives them must not
mind (idempotence). `encode` and `decode` are inverse for every message here.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from typing import Any

from tlserve.core.backbones import BackboneDescription
from tlserve.core.judge import Policy
from tlserve.core.lifecycle import Phase, Promotion

# -- daemon to trainer ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one model is to be trained; settings and model.toml merged."""

    backbone: str
    promotion: Promotion = Promotion.AUTO
    policy: Policy = field(default_factory=Policy)
    follow_symlinks: bool = False
    max_pixels: int = 64_000_000
    keep_versions: int = 20
    seed: int = 0


@dataclass(frozen=True, slots=True)
class PassJob:
    """One pass over one model's folder: reconcile, extract, train, judge, publish."""

    job_id: str
    model: str
    folder: str
    recipe: Recipe
    accept_deletions: bool = False
    force: bool = False
    """Train even when nothing changed since the last version."""
    noticed_at: float | None = None
    """Unix time of the first change behind this pass."""


@dataclass(frozen=True, slots=True)
class ExportJob:
    """Write the whole graph of the live and pinned versions into the Triton repository."""

    job_id: str
    model: str
    live: int
    pinned: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ExportFileJob:
    """Write the whole graph of one version to a file of the user's choice."""

    job_id: str
    model: str
    version: int
    path: str


@dataclass(frozen=True, slots=True)
class ListBackbonesJob:
    """Load every plugin, persist the catalogue of what they offer, and report it."""

    job_id: str


@dataclass(frozen=True, slots=True)
class CheckBackbonesJob:
    """Load each of these backbones, weights included, and say what it is or what is wrong with it."""

    job_id: str
    names: tuple[str, ...]
    """As users write them."""


@dataclass(frozen=True, slots=True)
class DescribeBackboneJob:
    """Load one backbone, weights included, and tell everything about it."""

    job_id: str
    name: str
    """As users write it."""
    measure: bool = False
    """Make its build too, and measure how fast it runs."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop this job at its next safe point; a job that is not running is forgotten."""

    job_id: str


# -- trainer to daemon ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TrainerReady:
    pid: int


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a job stands. `done` of `total` images (or fits) in this phase; rates where they make sense."""

    job_id: str
    model: str
    phase: Phase
    done: int = 0
    total: int = 0
    per_second: float | None = None
    seconds_left: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class ProblemNote:
    """A `types.Problem` on the wire."""

    kind: str
    where: str
    reason: str


@dataclass(frozen=True, slots=True)
class SnapshotTaken:
    """What the reconcile found."""

    job_id: str
    model: str
    snapshot_id: str
    n_images: int
    counts: dict[str, int]
    n_problems: int
    problems: tuple[ProblemNote, ...] = ()
    """The first 200."""
    files_opened: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ImagesPassed:
    """Images that just went through a backbone. The sum over all events is the counter in metrics."""

    job_id: str
    model: str
    backbone: str
    n_images: int
    n_bad: int = 0


@dataclass(frozen=True, slots=True)
class PassDone:
    """How a pass ended.

    outcome: published | unchanged | waiting | disappeared | failed | cancelled.
    version and promote are set when published.
    """

    job_id: str
    model: str
    outcome: str
    reason: str
    version: int | None = None
    promote: bool = False
    judged_against: int | None = None
    """The version that was live when the judge spoke: another one live now makes the verdict void."""
    retryable: bool = False
    timeline: dict[str, float] = field(default_factory=dict)
    """Seconds spent in each phase."""


@dataclass(frozen=True, slots=True)
class Exported:
    job_id: str
    model: str
    version: int
    path: str
    error: str | None = None


@dataclass(frozen=True, slots=True)
class BackboneEntry:
    """One line of the catalogue of backbones."""

    name: str
    plugin: str
    detail: str = ""
    error: str | None = None
    licence: str | None = None
    """This and what follows: as far as the plugin knows without loading the backbone."""
    n_parameters: int | None = None
    height: int | None = None
    width: int | None = None
    row_width: int | None = None


@dataclass(frozen=True, slots=True)
class BackbonesListed:
    job_id: str
    backbones: tuple[BackboneEntry, ...]


@dataclass(frozen=True, slots=True)
class BackbonesChecked:
    job_id: str
    backbones: tuple[BackboneEntry, ...]
    """One for each name that was asked about, in that order."""


@dataclass(frozen=True, slots=True)
class BackboneDescribed:
    """One of `backbone` and `error` is there. The trainer does not look whether a build lies on disk."""

    job_id: str
    backbone: BackboneDescription | None
    error: str | None = None
    not_found: bool = False
    """Whether the error is that no plugin offers it."""


Message = (
    PassJob
    | ExportJob
    | ExportFileJob
    | ListBackbonesJob
    | CheckBackbonesJob
    | DescribeBackboneJob
    | Cancel
    | TrainerReady
    | Progress
    | SnapshotTaken
    | ImagesPassed
    | PassDone
    | Exported
    | BackbonesListed
    | BackbonesChecked
    | BackboneDescribed
)
Job = PassJob | ExportJob | ExportFileJob | ListBackbonesJob | CheckBackbonesJob | DescribeBackboneJob
Event = (
    TrainerReady
    | Progress
    | SnapshotTaken
    | ImagesPassed
    | PassDone
    | Exported
    | BackbonesListed
    | BackbonesChecked
    | BackboneDescribed
)

_BY_NAME: dict[str, type] = {kind.__name__: kind for kind in typing.get_args(Message)}


def encode(message: Message) -> bytes:
    """One line of JSON, newline included."""
    return json.dumps({"type": type(message).__name__, **dataclasses.asdict(message)}).encode() + b"\n"


def decode(line: bytes) -> Message:
    """The message on a line; raises ValueError for anything that is not one."""
    try:
        raw = json.loads(line)
        kind = _BY_NAME[raw.pop("type")]
        return typing.cast(Message, _build(kind, raw))
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"not a message: {line[:200]!r}") from exc


def _build(kind: Any, value: Any) -> Any:
    """`value`, as parsed from JSON, as an instance of the annotated type `kind`."""
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return typing.cast(Any, kind)(**{name: _build(hints[name], item) for name, item in value.items()})
    if origin is tuple:
        return tuple(_build(typing.get_args(kind)[0], item) for item in value)
    if origin in (typing.Union, types.UnionType):
        inner = [arg for arg in typing.get_args(kind) if arg is not type(None)]
        return None if value is None else _build(inner[0], value)
    if isinstance(kind, type) and issubclass(kind, (Phase, Promotion)):
        return kind(value)
    return value
