"""One backbone build at work in the trainer: its spec, its cache of rows, and its session."""

from __future__ import annotations

import json
from pathlib import Path

from tlserve.core.backbones import FROM_FILES
from tlserve.features import ExtractionResult, Extractor, FeatureStore
from tlserve.runtime import BackboneSession, Device, observed, read_build_spec, record_speeds, usable_cores

VALIDATION_FILE = "validation.json"
ONE_IMAGE_STREAM_PER_CORE = 1
"""Session threads for extraction: each core takes its own images all the way, which wastes nothing."""
FEWEST_FOR_A_SPEED = 256
"""Images; fewer pass too quickly for their rate to mean anything."""


class Bench:
    """One build at work: its spec, its cache, and its session, which opens on first need."""

    def __init__(self, folder: Path, features: Path, device: Device, threads: int) -> None:
        self.spec = read_build_spec(folder)
        self.folder, self.device = folder, device
        self.validation = validation_of(folder)
        """Of a fine-tuned build: digests of the training images that only validated."""
        self.store = FeatureStore(features, row_width=self.spec.row_width)
        self._threads = threads
        self._session: BackboneSession | None = None

    @property
    def session(self) -> BackboneSession:
        """Opened on first need. Raises BuildMismatch, CorruptState."""
        if self._session is None:
            self._session = BackboneSession.open(
                self.folder, self.device, threads=self._threads or ONE_IMAGE_STREAM_PER_CORE
            )
        return self._session

    def width(self, taps: tuple[str, ...]) -> int:
        """How many features these taps have together."""
        return sum(tap.width for tap in self.spec.taps if tap.name in taps)

    def extractor(self, max_pixels: int) -> Extractor:
        return Extractor(self.session, self.store, max_pixels=max_pixels)

    def keep_speed(self, result: ExtractionResult) -> None:
        """Note beside the build how fast images went through, if they were enough to tell."""
        if result.n_passed >= FEWEST_FOR_A_SPEED:
            speed = observed(
                FROM_FILES, result.n_passed, result.seconds, device=self.device, threads=usable_cores()
            )
            record_speeds(self.folder, [speed])

    def rest(self) -> None:
        """Give the session's memory back; it opens again on need."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def close(self) -> None:
        self.store.close()
        self.rest()


def validation_of(build: Path) -> frozenset[str]:
    """Empty for a build that was not fine-tuned."""
    try:
        return frozenset(json.loads((build / VALIDATION_FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return frozenset()
