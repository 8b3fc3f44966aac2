"""How a pass ends: with nothing to do, for a version made of the same is there, or with a version."""

from __future__ import annotations

from typing import Any

from tlserve.core.lifecycle import Promotion
from tlserve.core.messages import PassJob
from tlserve.core.plan import Depth
from tlserve.core.types import Snapshot
from tlserve.pipeline.bench import Bench
from tlserve.pipeline.workshop import Workshop
from tlserve.pipeline.worth import same_work, waits
from tlserve.release import LiveState, Manifest, Version


class Ending:
    """For one pass. Its answers are the fields of a PassDone."""

    def __init__(self, job: PassJob, shop: Workshop) -> None:
        self._job, self._shop = job, shop

    def nothing_to_do(
        self, snapshot: Snapshot, bench: Bench, state: LiveState, live: Version | None
    ) -> dict[str, Any] | None:
        """How to end when nothing changed since the newest version; None when there is work to do."""
        newest = self._newest(bench.spec.digest)
        if newest is None or not same_work(newest, snapshot, bench, self._job.recipe):
            return None
        if newest.instant and (self._job.refine or self._job.depth not in (Depth.INSTANT, Depth.QUICK)):
            # The full recipe has not spoken on these images yet.
            return None
        ended = self._as_before(newest, state, live)
        return ended if ended is None else ended | {"refine": newest.instant}

    def published(self, manifest: Manifest, state: LiveState) -> dict[str, Any]:
        good = manifest.verdict == "promote"
        automatic = self._goes_live_by_itself(state)
        return {
            "outcome": "published",
            "reason": waits(manifest) if good and not automatic else manifest.reason,
            "version": manifest.version,
            "promote": good and automatic,
            "judged_against": manifest.judged_against,
            "refine": manifest.instant,
        }

    def _as_before(self, newest: Manifest, state: LiveState, live: Version | None) -> dict[str, Any] | None:
        automatic = self._goes_live_by_itself(state)
        if newest.version in state.promoted:
            if live is not None and live.manifest.build != newest.build and automatic:
                # The backbone that the settings name is an earlier one again: back to it, if no worse.
                return None
            return unchanged(f"nothing changed since version {newest.version}")
        if newest.verdict == "hold" or not automatic:
            held = f"version {newest.version} was held: {newest.reason}"
            return unchanged(held if newest.verdict == "hold" else waits(newest))
        if newest.judged_against != state.live:
            # It waited while another version went live; its verdict is about a version that is gone.
            return None
        # Published by a pass whose end the daemon never heard, or while promotion was manual.
        return self.published(newest, state)

    def _newest(self, build: str) -> Manifest | None:
        """The newest version on this build: a fine-tuned one that was held must not hide it."""
        for number in reversed(self._shop.versions.versions(self._job.model)):
            manifest = self._shop.versions.manifest(self._job.model, number)
            if manifest.build == build:
                return manifest
        return None

    def _goes_live_by_itself(self, state: LiveState) -> bool:
        """A first version always does: without one, nothing would answer."""
        return self._job.recipe.promotion is Promotion.AUTO or state.live is None


def unchanged(reason: str) -> dict[str, Any]:
    return {"outcome": "unchanged", "reason": reason}
