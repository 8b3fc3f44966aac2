"""What the inference pool counts, as metrics that are read when they are scraped."""

from __future__ import annotations

from collections.abc import Iterable

from tlserve.serving import InferencePool


def pool_samples(pool: InferencePool) -> Iterable[tuple[str, str, bool, float]]:
    """Name, description, whether it only ever grows, and value."""
    totals = pool.totals()
    yield "tlserve_waiting_images", "Images admitted and not yet running.", False, totals.waiting_rows
    yield "tlserve_open_requests", "Requests that hold a version.", False, totals.requests_open
    yield "tlserve_open_builds", "Backbone builds in memory.", False, totals.builds_open
    yield "tlserve_backbone_bytes", "What they take in memory.", False, totals.resident_bytes
    yield "tlserve_backbone_loads", "Backbones loaded into memory.", True, totals.loads
    yield "tlserve_backbone_load_failures", "Loads that failed.", True, totals.load_failures
    yield "tlserve_backbone_evictions", "Backbones that left memory.", True, totals.evictions
    yield "tlserve_cold_waits", "Requests that waited for a backbone.", True, totals.cold_waits
    yield "tlserve_served_images", "Images answered.", True, totals.images
    yield "tlserve_batches", "Backbone runs for predictions.", True, totals.batches
    yield "tlserve_batch_images", "Images in those runs.", True, totals.batch_rows
