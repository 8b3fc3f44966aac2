"""What `tlserve versions` shows of a version: its manifest and LIVE, read together. Free of I/O."""

from __future__ import annotations

from tlserve.core.lifecycle import Phase, version_state
from tlserve.core.timeline import steps
from tlserve.release.live import LiveChange, LiveState
from tlserve.release.manifest import Manifest, VersionRow


def row_of(manifest: Manifest, state: LiveState) -> VersionRow:
    """One row. The reason is the judge's, then that of the version's latest promotion where it differs."""
    changes = [change for change in state.history if change.version == manifest.version]
    drops = [change for change in changes if change.drop_to_live_seconds is not None]
    reasons = [manifest.reason, *(change.reason for change in changes[-1:])]
    return VersionRow(
        version=manifest.version,
        state=_state(manifest.version, state, manifest.verdict),
        images=manifest.n_images,
        classes=manifest.labels,
        accuracy=manifest.accuracy,
        backbone=manifest.backbone,
        created=manifest.created_iso,
        reason="; ".join(dict.fromkeys(filter(None, reasons))),
        drop_to_live_seconds=drops[0].drop_to_live_seconds if drops else None,
        pinned=manifest.version in state.pinned,
        instant=manifest.instant,
        timeline=timeline_of(manifest, drops[0] if drops else None),
    )


def timeline_of(manifest: Manifest, change: LiveChange | None) -> dict[str, float]:
    """Seconds that each step took; change: how it went live, if a drop brought it there."""
    if change is None:
        return steps(manifest.timeline)
    phases = dict(manifest.timeline)
    if change.publishing_seconds is not None:
        phases[Phase.PUBLISHING.value] = change.publishing_seconds
    return steps(phases, change.drop_to_live_seconds)


def unreadable_row(number: int, state: LiveState, reason: str) -> VersionRow:
    """The row of a version whose manifest is damaged; `reason` says how."""
    return VersionRow(
        version=number,
        state=_state(number, state, "hold"),
        images=0,
        classes=(),
        accuracy=None,
        backbone="",
        created="",
        reason=reason,
        drop_to_live_seconds=None,
        pinned=number in state.pinned,
    )


def _state(number: int, state: LiveState, verdict: str) -> str:
    live, previous = state.live, state.previous
    return version_state(number, live=live, previous=previous, promoted=state.promoted, verdict=verdict).value
