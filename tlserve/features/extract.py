"""Images through the backbone into the store: decoding and inference overlap, every core stays busy.

Each worker takes a handful of images all the way from file to rows. As many of them run the backbone at
once as the session's threads leave cores for (one on a GPU), while the others decode. Augmented views go the
same way: all the missing ones of an image together, so that it is read and decoded once for them.
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

from tlserve.core.augmentation import Augmentation, image_of, view_key
from tlserve.core.errors import BadImage, NonFiniteRow
from tlserve.core.types import Rows
from tlserve.features.progress import ExtractionProgress, Pace
from tlserve.features.store import FeatureStore
from tlserve.images import DEFAULT_MAX_PIXELS, ImageDecoder, Picture, ViewMaker
from tlserve.runtime import BackboneSession, usable_cores

CPU_BATCH_SIZE, CUDA_BATCH_SIZE = 8, 64
"""A core is as fast with 8 images as with 32, and tells of progress or stops four times sooner."""

_NOT_FINITE = "the backbone gives a number that is not finite for it"

Job = tuple[str, Path]
"""(sha256 of the bytes, a file that holds them)"""


@dataclass(frozen=True, slots=True)
class ExtractionResult:
    n_passed: int
    """Images, or views, that went through the backbone and are stored now."""
    bad: dict[str, str] = field(default_factory=dict)
    """Reasons by digest: no image, or no longer the bytes that were asked for."""
    seconds: float = 0.0
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class _Work:
    """What one extraction is to do. Images are known by their digests."""

    images: Sequence[Job]
    keys_of: Callable[[str], Sequence[str]]
    """The keys of the rows wanted of an image, at least one."""
    pictures_of: Callable[[str, bytes], Sequence[Picture]]
    """What each of those rows is made of, from the bytes of the file. Raises BadImage."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    """What became of a handful of images."""

    keys: list[str]
    rows: Rows
    bad: dict[str, str]
    n_done: int
    """Rows that were wanted of them."""


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
        self._max_pixels = max_pixels
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
        decoder = ImageDecoder(self._session.spec.image, self._max_pixels)
        work = _Work(images, lambda digest: (digest,), lambda _, data: (decoder.decode(data),))
        return self._extract(work, on_progress, cancelled)

    def extract_views(
        self,
        images: Sequence[Job],
        augmentation: Augmentation,
        n_views: int,
        on_progress: Callable[[ExtractionProgress], None] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> ExtractionResult:
        """As `extract`, for those views 1 to `n_views` of the images that the store does not have yet.

        Their rows are kept under `view_key`, for the numbers that `Augmentation.indices` gives. Progress
        and `n_passed` count views, `bad` names images.
        """
        indices = augmentation.indices(n_views)
        numbers = {view_key(digest, augmentation, index): index for digest, _ in images for index in indices}
        wanted: dict[str, list[str]] = {}
        for key in self._store.missing(numbers):
            wanted.setdefault(image_of(key), []).append(key)
        files = {digest: file for digest, file in images if digest in wanted}
        maker = ViewMaker(self._session.spec.image, augmentation, self._max_pixels)

        def views(digest: str, data: bytes) -> Sequence[Picture]:
            return maker.views(data, digest, [numbers[key] for key in wanted[digest]])

        return self._extract(_Work(list(files.items()), wanted.__getitem__, views), on_progress, cancelled)

    def _extract(
        self,
        work: _Work,
        on_progress: Callable[[ExtractionProgress], None] | None,
        cancelled: Callable[[], bool],
    ) -> ExtractionResult:
        started = time.perf_counter()
        pace = Pace(sum(len(work.keys_of(digest)) for digest, _ in work.images), started)
        bad: dict[str, str] = {}
        n_passed = n_done = 0
        stopped = False
        with contextlib.closing(self._chunks(work)) as chunks:
            for chunk in chunks:
                self._store.append(chunk.keys, chunk.rows)
                n_passed += len(chunk.keys)
                n_done += chunk.n_done
                bad |= chunk.bad
                if on_progress is not None:
                    on_progress(pace.after(n_done, time.perf_counter()))
                stopped = cancelled()
                if stopped:
                    break
        if bad and n_passed == 0 and all(reason == _NOT_FINITE for reason in bad.values()):
            raise NonFiniteRow(
                f"the backbone {self._session.spec.name!r} gives NaN or infinity for all {len(bad)} image(s)"
            )
        return ExtractionResult(n_passed, bad, time.perf_counter() - started, stopped)

    def _chunks(self, work: _Work) -> Generator[_Chunk, None, None]:
        """Finished chunks in order; at most two per worker are under way or waiting to be stored."""
        images = work.images
        most_rows = max((len(work.keys_of(digest)) for digest, _ in images), default=1)
        size = max(1, min(self._batch_size // most_rows, -(-len(images) // self._workers)))
        parts = (images[start : start + size] for start in range(0, len(images), size))
        with ThreadPoolExecutor(self._workers, thread_name_prefix="extract") as threads:
            under_way: deque[Future[_Chunk]] = deque(
                threads.submit(self._process, work, part)
                for part in itertools.islice(parts, 2 * self._workers)
            )
            try:
                while under_way:
                    chunk = under_way.popleft().result()
                    under_way.extend(
                        threads.submit(self._process, work, part) for part in itertools.islice(parts, 1)
                    )
                    yield chunk
            finally:
                threads.shutdown(wait=True, cancel_futures=True)

    def _process(self, work: _Work, images: Sequence[Job]) -> _Chunk:
        """From files to rows, in a worker thread."""
        bad: dict[str, str] = {}
        keys: list[str] = []
        pictures: list[Picture] = []
        n_done = 0
        for digest, file in images:
            n_done += len(work.keys_of(digest))
            try:
                pictures += work.pictures_of(digest, _read(file, digest))
                keys += work.keys_of(digest)
            except BadImage as exc:
                bad[digest] = str(exc)
        rows = self._rows(pictures)
        finite = np.flatnonzero(np.isfinite(rows).all(axis=1)).tolist()
        kept = [keys[place] for place in finite]
        bad |= dict.fromkeys(map(image_of, set(keys).difference(kept)), _NOT_FINITE)
        return _Chunk(kept, rows[finite], bad, n_done)

    def _rows(self, pictures: Sequence[Picture]) -> Rows:
        """(len(pictures), row_width) float32, a batch at a time: an image may have many views."""
        rows = np.empty((len(pictures), self._session.spec.row_width), np.float32)
        for start in range(0, len(pictures), self._batch_size):
            pixels = np.stack(pictures[start : start + self._batch_size])
            with self._may_run:
                rows[start : start + len(pixels)] = self._session.rows(pixels)
        return rows


def _read(file: Path, digest: str) -> bytes:
    """The bytes of `file`; raises BadImage when they are not the ones named by `digest`."""
    try:
        data = file.read_bytes()
    except OSError as exc:
        raise BadImage(f"cannot be read: {exc.strerror or exc}") from exc
    if hashlib.sha256(data).hexdigest() != digest:
        raise BadImage("changed while reading; left for the next pass")
    return data
