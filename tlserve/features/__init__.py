"""The bottleneck cache and what fills it: every image goes through a backbone once. The trainer's alone."""

from tlserve.features.compaction import CompactionReport
from tlserve.features.extract import ExtractionResult, Extractor
from tlserve.features.progress import ExtractionProgress
from tlserve.features.recovery import Recovery
from tlserve.features.store import FeatureStore

__all__ = [
    "CompactionReport",
    "ExtractionProgress",
    "ExtractionResult",
    "Extractor",
    "FeatureStore",
    "Recovery",
]
