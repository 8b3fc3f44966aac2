"""What the gRPC services ask of the rest of the daemon: one protocol, free of protobuf and gRPC.

The app implements it; tests may implement it with a real inference pool and nothing else. Every method
raises errors of `tlserve.core.errors`; `rpc.status` turns them into gRPC statuses in one place.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tlserve.core.backbones import BackboneDescription
from tlserve.core.types import Features, Pixels, Probabilities


@dataclass(frozen=True, eq=False)
class Answer:
    """Predictions for N images by one version. `features` and `novelty` always come along."""

    model: str
    version: int
    labels: tuple[str, ...]
    """What the columns of `probabilities` mean: (n_classes,)."""
    probabilities: Probabilities
    features: Features
    novelty: npt.NDArray[np.float32]
    """(N,) in [0, 1]."""
    unknown: npt.NDArray[np.bool_]
    """(N,) novelty above the model's threshold."""


@dataclass(frozen=True, slots=True)
class ServedModelInfo:
    """What a client needs to know to call one version of a model."""

    model: str
    version: int
    versions: tuple[int, ...]
    """All that can be asked for by number, ascending."""
    labels: tuple[str, ...]
    n_features: int
    height: int
    width: int
    max_batch: int


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """One line of `tlserve models`."""

    model: str
    phase: str
    """core.lifecycle.Phase."""
    ready: bool
    live: int | None
    previous: int | None
    promotion: str
    images: int
    counts: Mapping[str, int]
    """Images per class in the last snapshot."""
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    backbone: str
    message: str
    """In plain words: what it does, waits for or lacks."""
    problems: tuple[tuple[str, str, str], ...] = ()
    """(kind, where, reason), the first 200."""
    n_problems: int = 0
    done: int = 0
    total: int = 0
    per_second: float | None = None
    seconds_left: float | None = None
    wanted_backbone: str = ""
    """The backbone that the next pass learns on, where that is not the live version's."""


@dataclass(frozen=True, slots=True)
class VersionLine:
    """One line of `tlserve versions`."""

    version: int
    state: str
    images: int
    classes: tuple[str, ...]
    accuracy: float | None
    backbone: str
    created: str
    """ISO 8601, UTC."""
    reason: str
    drop_to_live_seconds: float | None
    pinned: bool = False
    instant: bool = False
    """Whether it is a fast version, made before the full recipe."""
    timeline: Mapping[str, float] = field(default_factory=dict)
    """Seconds that each step took, from the change to the answer; see `core.timeline`."""


@dataclass(frozen=True, slots=True)
class BackboneLine:
    """One line of `tlserve backbones`."""

    name: str
    plugin: str
    detail: str
    error: str | None
    licence: str | None = None
    """This and what follows: as far as it is known without loading the backbone."""
    n_parameters: int | None = None
    height: int | None = None
    width: int | None = None
    row_width: int | None = None
    images_per_second: float | None = None
    """Where it was measured on the machine of the state directory."""
    measured: str = ""
    """What was: `backbone` (alone, in batches) or `files` (from file to row, while learning)."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One model's images through several backbones."""

    found: Mapping[str, Any]
    """model, created, n_images, n_classes, device, and `rows` with one object for each backbone."""
    page: str
    """The same as one HTML file."""


@dataclass(frozen=True, slots=True)
class ModelEvent:
    """Progress or a change of one model.

    kind: phase | progress | snapshot | version | swap | problem | tuning | comparison.
    """

    model: str
    at: float
    """Unix time."""
    kind: str
    message: str
    phase: str = ""
    version: int | None = None
    done: int = 0
    total: int = 0
    per_second: float | None = None
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True)
class Duration:
    """Triton's StatisticDuration."""

    count: int = 0
    total_ns: int = 0


@dataclass(frozen=True, slots=True)
class ModelStatistics:
    """Triton's ModelStatistics of one version."""

    model: str
    version: int
    last_inference_ms: int
    """Unix time in milliseconds, 0 before the first request."""
    inference_count: int
    """Images."""
    execution_count: int
    """Batches."""
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


@dataclass(frozen=True, slots=True)
class AddedImage:
    """Where an image that came through the API was written, relative to the watch root."""

    path: str
    digest: str
    already_there: bool


class Backend(Protocol):
    """The daemon, as its front ends see it. `version`: a decimal, `live`, `previous` or empty (live)."""

    # -- predictions

    async def predict(
        self, model: str, version: str, images: Sequence[bytes] | Pixels, *, timeout_seconds: float | None
    ) -> Answer:
        """Answer encoded images, or pixels (N, H, W, 3) of any size. Cancelling the call cancels the work."""
        ...

    def server_ready(self) -> bool: ...

    def model_ready(self, model: str, version: str) -> bool:
        """False for a model that is unknown or not trained; never raises for those."""
        ...

    async def served_model(self, model: str, version: str) -> ServedModelInfo:
        """Facts about a version that can be asked for, loading it first where it has to be."""
        ...

    def statistics(self, model: str, version: str) -> Sequence[ModelStatistics]:
        """Of one model, or of all when `model` is empty."""
        ...

    # -- models and versions

    def list_models(self) -> Sequence[ModelSummary]: ...

    def get_model(self, model: str) -> ModelSummary: ...

    async def list_versions(self, model: str) -> Sequence[VersionLine]: ...

    async def get_report(self, model: str, version: str) -> Mapping[str, Any]: ...

    async def report_page(self, model: str, version: str) -> str:
        """The report as one HTML file, which is written first if need be."""
        ...

    def watch(self, model: str) -> AsyncIterator[ModelEvent]:
        """Events from now on, of one model or (empty name) of all; ends when the server stops."""
        ...

    # -- what a person decides

    async def retrain(self, model: str, *, accept_deletions: bool) -> str:
        """Queue a pass even if nothing changed; returns its job id."""
        ...

    async def promote(self, model: str, version: str) -> VersionLine: ...

    async def rollback(self, model: str) -> VersionLine: ...

    async def pin(self, model: str, version: str, *, pinned: bool) -> VersionLine: ...

    async def set_promotion(self, model: str, mode: str) -> ModelSummary:
        """mode: auto | manual | frozen, or empty for what the settings say."""
        ...

    async def set_backbone(self, model: str, backbone: str) -> ModelSummary:
        """What the model learns on from now on; empty for what the settings say. It is loaded first."""
        ...

    async def compare(self, model: str, backbones: Sequence[str]) -> Comparison:
        """What each backbone would reach and cost, in the background. Cancelling the call ends the work."""
        ...

    async def add_image(self, model: str, label: str, name: str, data: bytes) -> AddedImage:
        """Label through the API: write the image into the class's folder, where the watcher finds it.

        Never overwrites: equal bytes already there are left, another file of that name gets a new name.
        """
        ...

    async def export(self, model: str, version: str) -> bytes:
        """The whole graph of a version as one ONNX file."""
        ...

    async def list_backbones(self) -> Sequence[BackboneLine]: ...

    async def get_backbone(self, name: str, *, measure: bool) -> BackboneDescription:
        """Load it, and tell all about it; with `measure`, make its build and run that for some seconds."""
        ...
