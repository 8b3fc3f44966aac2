"""Immutable numbered versions: published whole, found by number, one of them live; and their export.

This package imports numpy, safetensors and the standard library only, because the daemon loads it.
`tlserve.release.export` needs onnx and is for the trainer: import it by its own name.
"""

from tlserve.release.listing import timeline_of
from tlserve.release.live import (
    LiveChange,
    LiveState,
    pinned,
    promoted,
    rolled_back,
    with_backbone,
    with_promotion,
    without_retired,
)
from tlserve.release.manifest import Draft, Manifest, Version, VersionRow
from tlserve.release.retention import versions_to_retire
from tlserve.release.store import VersionStore

__all__ = [
    "Draft",
    "LiveChange",
    "LiveState",
    "Manifest",
    "Version",
    "VersionRow",
    "VersionStore",
    "pinned",
    "promoted",
    "rolled_back",
    "timeline_of",
    "versions_to_retire",
    "with_backbone",
    "with_promotion",
    "without_retired",
]
