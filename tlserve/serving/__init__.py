"""Serving: loaded versions, and one pool that answers for all of them.

Asyncio in front, threads behind, no gRPC: a front end leases a version and asks for a prediction;
the scheduler loads a new version and swaps it in. Models that share a build share its session and
their requests share batches; each request is answered by the head of the version it leased. Heads and
facts stay in memory, sessions come and go (`residency`).
"""

from tlserve.serving.pool import InferencePool
from tlserve.serving.servable import PoolSettings, Prediction, ServableVersion, VersionSource
from tlserve.serving.served import Lease, ServedVersion
from tlserve.serving.statistics import Duration, PoolTotals, VersionStatistics

__all__ = [
    "Duration",
    "InferencePool",
    "Lease",
    "PoolSettings",
    "PoolTotals",
    "Prediction",
    "ServableVersion",
    "ServedVersion",
    "VersionSource",
    "VersionStatistics",
]
