"""What the daemon asks of the trainer and of the tuner."""

from __future__ import annotations

from dataclasses import dataclass, field

from tlserve.core.judge import Policy
from tlserve.core.lifecycle import Promotion
from tlserve.core.plan import Depth, Wish
from tlserve.core.precision import Precision


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
    wish: Wish = field(default_factory=Wish)
    study: bool = True
    """Whether a better version is looked for in the background once one is live."""
    precision: Precision = Precision.AUTO
    """In which numbers the backbone is computed."""
    instant: bool = True
    """Whether a change is first answered by the best head that can be had at once."""
    instant_budget_seconds: float = 1.0
    """What learning that head may take."""
    first_images: int = 1_000
    """Of a model without a version: the first is learnt from so many images; 0: from all there are."""


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
    settled_at: float | None = None
    """Unix time at which the folder was quiet enough for it."""
    touched: tuple[str, ...] | None = None
    """Files and folders, relative to the model's, that are all that changed since the pass before; None: look
    at everything."""
    depth: Depth = Depth.QUICK
    refine: bool = False
    """Whether this is the full recipe's turn on the images of a fast version."""
    tuned: str | None = None
    """Digest of the fine-tuned build to learn on and to judge, when this pass follows a fine-tuning."""


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
class ReportJob:
    """Write a version's report as a page, from what its report.json says."""

    job_id: str
    model: str
    version: int
    folder: str
    """Of the model's images, for the thumbnails."""


@dataclass(frozen=True, slots=True)
class CompareJob:
    """One model's images through several backbones; what each would give, and cost."""

    job_id: str
    model: str
    folder: str
    recipe: Recipe
    backbones: tuple[str, ...]
    """As users write them."""


@dataclass(frozen=True, slots=True)
class TuneJob:
    """Carry out the fine-tuning that was ordered for a model. For the tuner, a process of its own."""

    job_id: str
    model: str


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
    precision: Precision = Precision.AUTO
    """Which build is meant, as the settings have it."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop this job at its next safe point; a job that is not running is forgotten."""

    job_id: str
