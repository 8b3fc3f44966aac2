"""What a published version says of itself: the manifest, free of I/O.

A `Draft` is what a pass knows before the version has a number; the store adds the number, and what it
reads off the head, and from then on the manifest never changes. What happens to a version later (it
goes live, it is pinned) stands in LIVE, never here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, cast

from tlserve.core.head import Head
from tlserve.core.judge import Evidence, Verdict
from tlserve.core.plan import Plan
from tlserve.core.wire import from_json

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Draft:
    """What a pass knows of a version that is about to be published."""

    job_id: str
    """Publishing the same job again returns the version it already made."""
    created: float
    """Unix time."""
    backbone: str
    """As the user names it, for example ``nano``."""
    build: str
    """Digest of the backbone build whose rows the head reads."""
    snapshot_id: str
    counts: Mapping[str, int]
    """Images per class in the snapshot, both sides."""
    verdict: Verdict
    reason: str
    evidence: Evidence
    accuracy: float | None = None
    """On the held-out images, in [0, 1]; None when nothing could be held out."""
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    timeline: Mapping[str, float] = field(default_factory=dict)
    """Seconds spent in each phase of the pass."""
    noticed_at: float | None = None
    """Unix time of the first change behind the pass."""
    judged_against: int | None = None
    """The version that was live when the judge spoke; None for a first version."""
    recipe: Mapping[str, float | str] = field(default_factory=dict)
    """The settings that training and judging depended on."""
    plan: Plan | None = None
    """What it was trained with."""
    tuned_from: str | None = None
    """The build that `build` was fine-tuned from."""
    instant: bool = False
    """Whether it is a fast version, which the full recipe may better."""
    full_plan: Plan | None = None
    """Of a fast version: what the full recipe goes by."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A published version in words and numbers; see `Draft` for the fields they share."""

    model: str
    version: int
    created: float
    backbone: str
    build: str
    snapshot_id: str
    n_images: int
    counts: dict[str, int]
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    verdict: Verdict
    reason: str
    evidence: Evidence
    taps: tuple[str, ...]
    labels: tuple[str, ...]
    job_id: str
    head_sha256: str
    timeline: dict[str, float]
    noticed_at: float | None
    judged_against: int | None = None
    recipe: dict[str, float | str] = field(default_factory=dict)
    plan: Plan | None = None
    """None in what older releases wrote: a softmax head on the last tap."""
    tuned_from: str | None = None
    instant: bool = False
    full_plan: Plan | None = None

    @property
    def recipe_plan(self) -> Plan | None:
        """What the full recipe on the same images goes by, or went by."""
        return self.full_plan if self.instant else self.plan

    def is_refined_by(self, other: Manifest) -> bool:
        """Whether this is a fast version and `other` the full recipe's from the same images and build."""
        same = (self.snapshot_id, self.build) == (other.snapshot_id, other.build)
        return same and self.instant and not other.instant

    @property
    def created_iso(self) -> str:
        """When it was published, ISO 8601 in UTC, to the second."""
        return datetime.fromtimestamp(self.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, eq=False)
class Version:
    """A published version, complete."""

    manifest: Manifest
    head: Head
    report: dict[str, Any]

    @property
    def model(self) -> str:
        return self.manifest.model

    @property
    def number(self) -> int:
        return self.manifest.version


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One line of `tlserve versions`; the field names are those of its JSON."""

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
    pinned: bool
    instant: bool = False
    """Whether it is a fast version, made before the full recipe."""
    timeline: dict[str, float] = field(default_factory=dict)
    """Seconds that each step took, from the change to the answer; see `core.timeline`."""


def manifest_of(model: str, version: int, draft: Draft, head: Head, head_sha256: str) -> Manifest:
    """The manifest of `draft` as number `version`."""
    return Manifest(
        model=model,
        version=version,
        created=draft.created,
        backbone=draft.backbone,
        build=draft.build,
        snapshot_id=draft.snapshot_id,
        n_images=sum(draft.counts.values()),
        counts=dict(draft.counts),
        accuracy=draft.accuracy,
        accuracy_low=draft.accuracy_low,
        accuracy_high=draft.accuracy_high,
        verdict=draft.verdict,
        reason=draft.reason,
        evidence=draft.evidence,
        taps=head.taps,
        labels=head.labels,
        job_id=draft.job_id,
        head_sha256=head_sha256,
        timeline=dict(draft.timeline),
        noticed_at=draft.noticed_at,
        judged_against=draft.judged_against,
        recipe=dict(draft.recipe),
        plan=draft.plan,
        tuned_from=draft.tuned_from,
        instant=draft.instant,
        full_plan=draft.full_plan,
    )


def manifest_to_json(manifest: Manifest) -> bytes:
    fields = {"format": FORMAT, **asdict(manifest)}
    return json.dumps(fields, indent=1).encode() + b"\n"


@lru_cache(maxsize=64)
def manifest_from_json(data: bytes) -> Manifest:
    """The inverse of `manifest_to_json`; raises ValueError for anything else.

    The latest are remembered by their bytes: one promotion reads the same file several times.
    """
    try:
        raw = json.loads(data)
        if raw.pop("format") != FORMAT:
            raise ValueError("written in another format, by another release of tlserve")
        for name in ("taps", "labels"):
            raw[name] = _strings(raw[name])
        for name in ("plan", "full_plan"):
            if raw.get(name) is not None:
                raw[name] = from_json(Plan, raw[name])
        manifest = Manifest(**raw)
        _check_types(manifest)
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"not a manifest: {exc}") from exc
    return manifest


def _strings(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("not a list of names")
    return tuple(cast(list[str], value))


_TYPES: dict[type | tuple[type, ...], tuple[str, ...]] = {
    str: ("model", "backbone", "build", "snapshot_id", "reason", "evidence", "job_id", "head_sha256"),
    int: ("version", "n_images"),
    (int, float): ("created",),
    (int, float, type(None)): ("accuracy", "accuracy_low", "accuracy_high", "noticed_at"),
    (int, type(None)): ("judged_against",),
    (str, type(None)): ("tuned_from",),
    bool: ("instant",),
    dict: ("counts", "timeline", "recipe"),
}
_VERDICTS: tuple[Literal["promote", "hold"], ...] = ("promote", "hold")


def _check_types(manifest: Manifest) -> None:
    for kinds, names in _TYPES.items():
        for name in names:
            if not isinstance(getattr(manifest, name), kinds):
                raise ValueError(f"{name} is of the wrong type")
    if manifest.verdict not in _VERDICTS:
        raise ValueError(f"unknown verdict {manifest.verdict!r}")
