"""Watched folders to snapshots: events are hints, the reconciled snapshot is the truth.

The daemon runs the `FolderWatcher`, which says when a model may have changed; the trainer runs
`reconcile`, which finds out what is there, against the `Catalog` of everything it read before.
"""

from tlserve.ingest.catalog import Catalog, Change, KnownFile, UnfinishedJob
from tlserve.ingest.duplicates import duplicates, group_numbers
from tlserve.ingest.events import WatchStatus
from tlserve.ingest.memory import FolderMemory
from tlserve.ingest.models import model_folders
from tlserve.ingest.reconcile import ReconcileCancelled, ScanRules, reconcile
from tlserve.ingest.settle import SettleTimer
from tlserve.ingest.watch import FolderWatcher

__all__ = [
    "Catalog",
    "Change",
    "FolderMemory",
    "FolderWatcher",
    "KnownFile",
    "ReconcileCancelled",
    "ScanRules",
    "SettleTimer",
    "UnfinishedJob",
    "WatchStatus",
    "duplicates",
    "group_numbers",
    "model_folders",
    "reconcile",
]
