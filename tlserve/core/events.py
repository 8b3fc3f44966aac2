"""What the trainer and the tuner tell the daemon. Every event carries the id of its job."""

from __future__ import annotations

from dataclasses import dataclass, field

from tlserve.core.backbones import BackboneDescription
from tlserve.core.lifecycle import Phase
from tlserve.core.tuning import TuneProgress


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
    study: bool = False
    """Whether a pass at full depth, in the background, may find a better version."""
    refine: bool = False
    """Whether what was published is a fast version, which the full recipe may better."""
    more: bool = False
    """Whether the folder holds images that this pass left for the next one to read."""
    tune: bool = False
    """Whether the state directory holds the order of a fine-tuning, or a result, that is to be taken up."""


@dataclass(frozen=True, slots=True)
class TuneProgressed:
    """Where a fine-tuning stands."""

    job_id: str
    model: str
    progress: TuneProgress


@dataclass(frozen=True, slots=True)
class Tuned:
    """How a fine-tuning ended: with a new build, or with the reason why there is none."""

    job_id: str
    model: str
    build: str | None
    reason: str
    retryable: bool = False
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class ReportWritten:
    job_id: str
    path: str
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Compared:
    """The comparison as JSON; see `report.comparison`."""

    job_id: str
    json: str
    page: str = ""
    """The same as an HTML page."""
    error: str | None = None
    cancelled: bool = False
    """Something more urgent came; asking again goes on from there."""


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
