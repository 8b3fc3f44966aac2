"""Images through the backbone into the store: decoding and inference overlap, every core stays busy.

Each worker takes a handful of images all the way from file to rows. As many of them run the backbone at
once as the session's threads leave cores for (one on a GPU), while the others decode.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tlserve.core.errors import BadImage, NonFiniteRow
from tlserve.core.types import Rows
from tlserve.features.store import FeatureStore
from tlserve.images import DEFAULT_MAX_PIXELS, ImageDecoder
from tlserve.runtime import BackboneSession, usable_cores

CPU_BATCH_SIZE, CUDA_BATCH_SIZE = 8, 64
"""A core is as fast with 8 images as with 32, and tells of progress or stops four times sooner."""

_NOT_FINITE = "the backbone gives a number that is not finite for it"
_SPEED_OVER_SECONDS = 10.0
"""The rate that is reported is the mean over this long, so that it follows the work at hand."""

Job = tuple[str, Path]
"""(sha256 of the bytes, a file that holds them)"""


@dataclass(frozen=True, slots=True)
class ExtractionProgress:
    done: int
    """Images dealt with, bad ones included."""
    total: int
    images_per_second: float
    seconds_left: float


@dataclass(frozen=True, slots=True)
class ExtractionResult:
    n_passed: int
    """Images that went through the backbone and are stored now."""
    bad: dict[str, str] = field(default_factory=dict)
    """Reasons by digest: no image, or no longer the bytes that were asked for."""
    seconds: float = 0.0
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class _Chunk:
    """What became of a handful of images."""

    digests: list[str]
    rows: Rows
    bad: dict[str, str]


class Extractor:
    """Fills one store from one session. One extraction at a time."""

    def __init__(
        self,
        session: BackboneSession,
        store: FeatureStore,
        *,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        batch_size: int | None = None,
        decode_workers: int | None = None,
    ) -> None:
        """On a CPU a session with one thread is best: then every core takes its own images all the way.

        decode_workers: threads that decode, and run the backbone in between; one per core by default.
        """
        self._session = session
        self._store = store
        self._decoder = ImageDecoder(session.spec.image, max_pixels)
        self._batch_size = batch_size or (CUDA_BATCH_SIZE if session.device.is_cuda else CPU_BATCH_SIZE)
        cores = usable_cores()
        runs_at_once = 1 if session.device.is_cuda else max(1, cores // session.threads)
        self._workers = decode_workers or max(2, cores)
        self._may_run = threading.Semaphore(runs_at_once)

    def extract(
        self,
        images: Sequence[Job],
        on_progress: Callable[[ExtractionProgress], None] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> ExtractionResult:
        """Pass images through the backbone and store their rows, batch by batch.

        A file that is no image, or whose sha256 is no longer its digest, is reported in `bad` and the
        others go on. Stops early, with what is stored so far, once `cancelled()` says so.
        Raises NonFiniteRow when the backbone gives not one finite row, StoreUnavailable when the disk
        refuses rows.
        """
        started = time.perf_counter()
        pace = _Pace(len(images), started)
        bad: dict[str, str] = {}
        n_passed = 0
        stopped = False
        with contextlib.closing(self._chunks(images)) as chunks:
            for chunk in chunks:
                self._store.append(chunk.digests, chunk.rows)
                n_passed += len(chunk.digests)
                bad |= chunk.bad
                if on_progress is not None:
                    on_progress(pace.after(n_passed + len(bad), time.perf_counter()))
                stopped = cancelled()
                if stopped:
                    break
        if bad and n_passed == 0 and all(reason == _NOT_FINITE for reason in bad.values()):
            raise NonFiniteRow(
                f"the backbone {self._session.spec.name!r} gives NaN or infinity for all {len(bad)} image(s)"
            )
        return ExtractionResult(n_passed, bad, time.perf_counter() - started, stopped)

    def _chunks(self, images: Sequence[Job]) -> Generator[_Chunk, None, None]:
        """Finished chunks in order; at most two per worker are under way or waiting to be stored."""
        size = max(1, min(self._batch_size, -(-len(images) // self._workers)))
        jobs = (images[start : start + size] for start in range(0, len(images), size))
        with ThreadPoolExecutor(self._workers, thread_name_prefix="extract") as threads:
            under_way: deque[Future[_Chunk]] = deque(
                threads.submit(self._process, part) for part in itertools.islice(jobs, 2 * self._workers)
            )
            try:
                while under_way:
                    chunk = under_way.popleft().result()
                    under_way.extend(
                        threads.submit(self._process, part) for part in itertools.islice(jobs, 1)
                    )
                    yield chunk
            finally:
                threads.shutdown(wait=True, cancel_futures=True)

    def _process(self, jobs: Sequence[Job]) -> _Chunk:
        """From files to rows, in a worker thread."""
        bad: dict[str, str] = {}
        digests: list[str] = []
        pictures: list[npt.NDArray[np.uint8]] = []
        for digest, file in jobs:
            try:
                pictures.append(self._decoder.decode(_read(file, digest)))
                digests.append(digest)
            except BadImage as exc:
                bad[digest] = str(exc)
        if not pictures:
            return _Chunk([], np.empty((0, self._session.spec.row_width), np.float32), bad)
        pixels = np.stack(pictures)
        with self._may_run:
            rows = self._session.rows(pixels)
        finite = np.flatnonzero(np.isfinite(rows).all(axis=1)).tolist()
        kept = [digests[place] for place in finite]
        bad |= dict.fromkeys(set(digests).difference(kept), _NOT_FINITE)
        return _Chunk(kept, rows[finite], bad)


class _Pace:
    """Turns a count of finished images into a speed and a remaining time."""

    def __init__(self, total: int, started: float) -> None:
        self._total = total
        self._marks: deque[tuple[float, int]] = deque([(started, 0)])

    def after(self, done: int, now: float) -> ExtractionProgress:
        self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[1][0] > _SPEED_OVER_SECONDS:
            self._marks.popleft()
        then, before = self._marks[0]
        speed = (done - before) / max(now - then, 1e-9)
        return ExtractionProgress(done, self._total, speed, (self._total - done) / max(speed, 1e-9))


def _read(file: Path, digest: str) -> bytes:
    """The bytes of `file`; raises BadImage when they are not the ones named by `digest`."""
    try:
        data = file.read_bytes()
    except OSError as exc:
        raise BadImage(f"cannot be read: {exc.strerror or exc}") from exc
    if hashlib.sha256(data).hexdigest() != digest:
        raise BadImage("changed while reading; left for the next pass")
    return data
