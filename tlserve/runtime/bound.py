"""Runs a session through buffers on its device that are allocated once: a batch costs two copies and a run.

A GPU wants few, fixed batch sizes: each **bucket** has its input and output buffer and, where capture works,
its own CUDA graph, which replays all kernels with one call. The same code runs on a CPU, for the tests.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from tlserve.core.errors import Unavailable
from tlserve.core.types import Pixels, Rows
from tlserve.runtime.gate import capture_gate
from tlserve.runtime.spec import GRAPH_INPUT, GRAPH_OUTPUT, BuildSpec, reference_pixels

REPLAY_TOLERANCE = 0.01
"""Largest difference of a replayed graph to the plain run, as root mean square relative to the rows' own.

A graph that was captured wrongly gives stale or foreign rows, which differ by about 1."""

_GRAPH_ID = "gpu_graph_id"
_NO_GRAPH = "-1"
_N_CAPTURE_RUNS = 3
"""ONNX Runtime captures on the third run of a graph's id; newer versions make all three in one call."""

log = logging.getLogger("tlserve.runtime")


@dataclass(frozen=True, slots=True)
class Place:
    """Whose memory the buffers are in, as ONNX Runtime names it."""

    kind: str
    """cuda or cpu"""
    index: int = 0


@dataclass(frozen=True, slots=True)
class _Bucket:
    size: int
    pixels: ort.OrtValue
    rows: ort.OrtValue
    binding: ort.IOBinding
    options: ort.RunOptions
    filled_up: Pixels
    """On the host: where a smaller batch is filled up with black pictures."""


class BoundRunner:
    """A session with a buffer pair per bucket. Any number of threads may call `rows`; one runs at a time.

    All runs are made by one thread of its own: a CUDA graph belongs to the thread that captured it, and
    graphs must not run side by side.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        spec: BuildSpec,
        buckets: Sequence[int],
        place: Place,
        *,
        graphs: bool = False,
        note: str = "",
    ) -> None:
        """Allocates the buffers and runs every bucket once; with `graphs`, captures and checks each.

        buckets: batch sizes, at least one. graphs: the session was loaded with CUDA graphs on.
        note: for `description`. Raises what ONNX Runtime raises, and RuntimeError when a replay is wrong.
        """
        self.buckets = tuple(sorted(set(buckets)))
        if not self.buckets or self.buckets[0] < 1:
            raise ValueError(f"batch sizes must be 1 or more, not {list(buckets)}")
        self._spec = spec
        self._place = place
        self._note = note
        self.has_graphs = graphs
        self._session: ort.InferenceSession | None = session
        self._bound: dict[int, _Bucket] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"tlserve-{place.kind}{place.index}")
        try:
            self._thread.submit(self._prepare, session).result()
        except BaseException:
            self.close()
            # Its memory is free before another attempt needs it.
            self._thread.shutdown(wait=True)
            raise

    @property
    def buffer_bytes(self) -> int:
        """Device memory of all buckets' inputs and outputs together."""
        image = self._spec.image
        each = image.height * image.width * 3 + 4 * self._spec.row_width
        return sum(self.buckets) * each

    @property
    def description(self) -> str:
        """In words, for a log line."""
        sizes = ", ".join(map(str, self.buckets))
        said = f"batches of {sizes} in {self.buffer_bytes / 2**20:.1f} MiB of buffers"
        said += ", CUDA graphs" if self.has_graphs else ", no CUDA graphs"
        return f"{said} ({self._note})" if self._note else said

    def rows(self, pixels: Pixels) -> Rows:
        """pixels: (n, H, W, 3) uint8 at the spec's size, n >= 1; more than the largest bucket go in pieces.

        Returns (n, row_width) float32. Raises Unavailable after `close`.
        """
        try:
            running = self._thread.submit(self._rows, pixels)
        except RuntimeError as exc:  # the thread takes nothing more
            raise self._closed() from exc
        return running.result()

    def close(self) -> None:
        """Free buffers and session once the calls under way are done; does not wait. Twice is harmless."""
        with contextlib.suppress(RuntimeError):
            self._thread.submit(self._release)
        self._thread.shutdown(wait=False)

    # -- in the runner's own thread

    def _rows(self, pixels: Pixels) -> Rows:
        if self._session is None:
            raise self._closed()
        rows = np.empty((len(pixels), self._spec.row_width), np.float32)
        most = self.buckets[-1]
        for start in range(0, len(pixels), most):
            piece = pixels[start : start + most]
            size = next(size for size in self.buckets if size >= len(piece))
            bucket = self._bound[size]
            with capture_gate().shared():
                self._run(self._session, bucket, piece, bucket.options)
                rows[start : start + most] = bucket.rows.numpy()[: len(piece)]
        return rows

    def _run(
        self, session: ort.InferenceSession, bucket: _Bucket, pixels: Pixels, options: ort.RunOptions
    ) -> None:
        if len(pixels) < bucket.size:
            bucket.filled_up[: len(pixels)] = pixels
            bucket.filled_up[len(pixels) :] = 0
            pixels = bucket.filled_up
        # It copies the memory as it lies, without a look at strides or type.
        bucket.pixels.update_inplace(np.ascontiguousarray(pixels, dtype=np.uint8))
        session.run_with_iobinding(bucket.binding, options)

    def _prepare(self, session: ort.InferenceSession) -> None:
        plain = _run_options(_NO_GRAPH)
        sample = reference_pixels(self._spec.image)
        for number, size in enumerate(self.buckets, start=1):
            with capture_gate().shared():
                bucket = self._allocate(session, number, size)
                others = _repeated(sample[::-1], size)
                self._run(session, bucket, others, plain)
                expected = np.array(bucket.rows.numpy())
            self._bound[size] = bucket
            if self.has_graphs:
                self._capture(session, bucket, _repeated(sample, size))
                with capture_gate().shared():
                    self._run(session, bucket, others, bucket.options)
                    _check_replay(np.array(bucket.rows.numpy()), expected, size)

    def _allocate(self, session: ort.InferenceSession, number: int, size: int) -> _Bucket:
        image, place = self._spec.image, self._place
        shape = (size, image.height, image.width, 3)
        allocate = ort.OrtValue.ortvalue_from_shape_and_type
        pixels = allocate(shape, np.uint8, place.kind, place.index)
        rows = allocate((size, self._spec.row_width), np.float32, place.kind, place.index)
        binding = session.io_binding()
        binding.bind_ortvalue_input(GRAPH_INPUT, pixels)
        binding.bind_ortvalue_output(GRAPH_OUTPUT, rows)
        options = _run_options(str(number) if self.has_graphs else _NO_GRAPH)
        return _Bucket(size, pixels, rows, binding, options, np.zeros(shape, np.uint8))

    def _capture(self, session: ort.InferenceSession, bucket: _Bucket, pixels: Pixels) -> None:
        with capture_gate().shared():
            bucket.pixels.update_inplace(pixels)
        with capture_gate().alone():
            for _ in range(_N_CAPTURE_RUNS):
                session.run_with_iobinding(bucket.binding, bucket.options)

    def _release(self) -> None:
        with capture_gate().shared():
            self._bound = {}
            self._session = None

    def _closed(self) -> Unavailable:
        return Unavailable(f"the backbone {self._spec.name!r} was closed")


def open_bound(
    load: Callable[[bool], ort.InferenceSession],
    spec: BuildSpec,
    buckets: Sequence[int],
    place: Place,
    *,
    graphs: bool = True,
) -> BoundRunner:
    """A runner with CUDA graphs where they can be captured, else without them, and its description says why.

    load: a session of the build, with graphs switched on or not; called again when a capture fails.
    Raises what the second attempt raises.
    """
    note = ""
    with capture_gate().opening:
        if graphs:
            try:
                return BoundRunner(_load(load, True), spec, buckets, place, graphs=True)
            except Exception as exc:  # onnxruntime raises a class of its own for each status
                note = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
                log.warning("%s runs without CUDA graphs: %s", spec.name, note)
        return BoundRunner(_load(load, False), spec, buckets, place, note=note)


def _load(load: Callable[[bool], ort.InferenceSession], graphs: bool) -> ort.InferenceSession:
    with capture_gate().shared():
        return load(graphs)


def _run_options(graph_id: str) -> ort.RunOptions:
    options = ort.RunOptions()
    options.add_run_config_entry(_GRAPH_ID, graph_id)
    return options


def _repeated(sample: Pixels, size: int) -> Pixels:
    return np.ascontiguousarray(np.resize(sample, (size, *sample.shape[1:])))


def _check_replay(found: Rows, expected: Rows, size: int) -> None:
    scale = float(np.sqrt(np.mean(np.square(expected, dtype=np.float64))))
    error = float(np.sqrt(np.mean(np.square(found - expected, dtype=np.float64))))
    if not error <= REPLAY_TOLERANCE * max(scale, 1e-6):
        raise RuntimeError(
            f"the graph of batches of {size} replays other rows: they differ by {error:.3g} of {scale:.3g}"
        )
