"""What the pool takes in and gives out: a version to serve, an answer, and how to run.

Serving does not know how versions are stored (release does, on the same floor), so this is the form
in which the app hands one over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tlserve.core.head import Head
from tlserve.core.types import Features, Probabilities
from tlserve.runtime import usable_cores
from tlserve.serving.limits import BUILD_IDLE_SECONDS


@dataclass(frozen=True, eq=False)
class ServableVersion:
    """One published version: a build and the head that reads its rows. Never changes once numbered."""

    model: str
    number: int
    build: str
    """Digest of the backbone build; names a folder under backbones/."""
    head: Head
    created: float = 0.0
    """Unix time."""


VersionSource = Callable[[str, int], ServableVersion]
"""Reads a version by model and number, on a thread; raises UnknownVersion or CorruptState."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """Answers for N images, all by one version."""

    model: str
    version: int
    labels: tuple[str, ...]
    """What the columns of `probabilities` mean: (n_classes,)."""
    probabilities: Probabilities
    """(N, n_classes) float32."""
    features: Features
    """(N, n_features) float32."""
    novelty: npt.NDArray[np.float32]
    """(N,) float32 in [0, 1]."""


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """How the pool uses the machine; a zero means: by the rule of `resolved`."""

    max_batch: int = 32
    """Most images that go through a backbone at once."""
    queue_rows: int = 1024
    """Most images admitted and not yet running, those that still decode included."""
    executors: int = 0
    """Batches under way side by side, on each device."""
    threads: int = 0
    """Threads inside one running batch."""
    decode_workers: int = 0
    extra_versions: int = 2
    """Older versions, asked for by number, that stay loaded beside live and previous."""
    batch_target_ms: float = 20.0
    """A batch holds as many images as are expected to run within this time, at least 1; 0: `max_batch`."""
    wide_threads: int = 0
    """Threads of the session for a batch that has the machine to itself; not more than `threads`: none."""
    wide_share: float = 0.8
    """That session is kept if one image takes at most this share of the time on the other."""
    max_backbones: int = 0
    """Most backbones in memory at once; 0: no limit."""
    memory_limit_mb: int = 0
    """Most MiB that backbones may take together; 0: no limit."""
    load_patience_seconds: float = 10.0
    """How long a lease waits for a backbone that is not in memory."""
    idle_seconds: float = BUILD_IDLE_SECONDS
    """How long a backbone stays that no live version stands on and nobody uses."""

    def resolved(self, *, cuda: bool, cores: int | None = None) -> PoolSettings:
        """Every zero replaced by what suits this machine.

        CPU: an executor for each of up to four cores; beyond, the cores are divided among four to seven,
        so that the fewest are left over (6 cores: 6 executors of 1 thread; 16: 4 of 4). One batch on two
        threads waits for the slower of them at every operator, and next to a busy event loop one of them
        is always the slower; two batches on one thread each never wait for each other. MobileNetV2, 2
        busy cores, 32 gRPC clients: 2 executors of 1 thread gave 0.90 of the bare session's images per
        CPU second, 1 executor of 2 threads 0.57 (its waiting thread spins). The size of a batch hardly
        matters on a CPU (within 5 % from 1 to 32).
        A batch that has the machine to itself runs on a second session with a thread for each core.

        Threads that decode: one for each core. Beside the executors that is twice as many as cores, but
        they never all have work: an executor without images waits for the decoders, and decoded images
        wait for an executor. Neither spins, so the cores go to whichever side is behind.

        GPU: two executors for each device, so that one fills its batch while the other's runs.
        """
        cores = usable_cores() if cores is None else cores
        executors = self.executors or _executors(self.threads, cuda=cuda, cores=cores)
        threads = self.threads or max(1, cores // executors)
        return replace(
            self,
            executors=executors,
            threads=threads,
            wide_threads=self.wide_threads or min(cores, executors * threads),
            decode_workers=self.decode_workers or cores,
        )


def _executors(threads: int, *, cuda: bool, cores: int) -> int:
    if cuda:
        return 2
    if threads:
        return max(1, cores // threads)
    return max(range(min(4, cores), min(7, cores) + 1), key=lambda count: (cores // count * count, -count))
