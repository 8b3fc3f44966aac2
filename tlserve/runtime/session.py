"""One loaded build: uint8 pictures in, bottleneck rows out, on the device that was chosen.

Learning and serving both go through here, so the features a head was trained on are the features it
is served with.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort

from tlserve.core.errors import BadInput, CorruptState, TlserveError, Unavailable
from tlserve.core.types import Pixels, Rows
from tlserve.runtime.bound import Place, open_bound
from tlserve.runtime.devices import Device, usable_cores
from tlserve.runtime.gate import capture_gate
from tlserve.runtime.reference import compare_with_reference
from tlserve.runtime.spec import (
    GRAPH_FILE,
    GRAPH_INPUT,
    GRAPH_OUTPUT,
    BuildSpec,
    read_build_spec,
    reference_pixels,
)
from tlserve.runtime.tensorrt import tensorrt_provider, tensorrt_takes

log = logging.getLogger("tlserve.runtime")


class Runner(Protocol):
    """What turns pictures into rows: plainly, or through bound buffers."""

    @property
    def description(self) -> str: ...

    def rows(self, pixels: Pixels) -> Rows: ...

    def close(self) -> None: ...


class BackboneSession:
    """A build on a device. Any number of threads may call `rows` at once; it releases the GIL."""

    def __init__(
        self, spec: BuildSpec, device: Device, runner: Runner, *, threads: int, buckets: tuple[int, ...] = ()
    ) -> None:
        self.spec = spec
        self.device = device
        self.threads = threads
        """CPU threads that one call of `rows` uses."""
        self.buckets = buckets
        """Batch sizes a GPU session is prepared for, ascending; none on a CPU."""
        self._runner = runner

    @classmethod
    def open(
        cls,
        folder: Path,
        device: Device,
        *,
        threads: int = 0,
        check: bool = True,
        spin: bool = False,
        buckets: Sequence[int] = (),
    ) -> BackboneSession:
        """Load the build in `folder`; `threads` 0 means one per usable core.

        spin: idle threads of this session wait busily between the operators of a run, and sleep after it;
        for a session that answers lone requests on cores which nobody else needs meanwhile.
        buckets: batch sizes that a GPU session is prepared for; others are filled up to the next. On a CPU
        they are ignored, for it takes every size as it comes.

        With `check`, the stored reference rows must come out again: raises BuildMismatch when they do
        not. Raises CorruptState when a file of the build is missing or broken, Unavailable when it is sound
        but the device cannot run it now (memory).
        """
        spec = read_build_spec(folder)
        threads = threads or usable_cores()
        graph = folder / GRAPH_FILE
        if not graph.is_file():
            raise CorruptState(f"{graph} is missing; delete {folder}, it is built again")
        buckets = tuple(sorted(set(buckets))) if device.is_cuda else ()
        try:
            runner = _runner(graph, spec, device, _options(threads, spin=spin), buckets)
        except TlserveError:
            raise
        except Exception as exc:  # onnxruntime raises a class of its own for each status
            raise Unavailable(f"{graph} loads, but does not run on {device.name}: {exc}") from exc
        session = cls(spec, device, runner, threads=threads, buckets=buckets)
        if check:
            try:
                session.check_reference(folder)
            except BaseException:
                session.close()
                raise
        if device.is_cuda:
            log.info("%s on %s", spec.name, session.describe())
        return session

    def describe(self) -> str:
        """Device and way of running, for a log line."""
        return f"{self.device.name}, {self._runner.description}"

    def rows(self, pixels: Pixels) -> Rows:
        """One row for each picture.

        pixels: (n, H, W, 3) uint8 RGB at the spec's own size. Returns (n, row_width) float32.
        Raises BadInput for another shape or type, Unavailable after `close`.
        """
        expected = (self.spec.image.height, self.spec.image.width, 3)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != expected:
            wanted = f"uint8 of shape (n, {', '.join(map(str, expected))})"
            raise BadInput(f"pixels must be {wanted}, not {pixels.dtype} of shape {pixels.shape}")
        if len(pixels) == 0:
            return np.empty((0, self.spec.row_width), np.float32)
        return self._runner.rows(pixels)

    def warm_up(self, batch_sizes: Iterable[int] = (1,)) -> None:
        """Run each batch size once, so that no request pays for first-time allocations."""
        image = self.spec.image
        for size in batch_sizes:
            self.rows(np.zeros((size, image.height, image.width, 3), np.uint8))

    def check_reference(self, folder: Path) -> None:
        """Compare with the rows stored in `folder` when the build was made.

        Raises BuildMismatch when this host gives others, CorruptState when the file is unreadable.
        """
        rows = self.rows(reference_pixels(self.spec.image))
        compare_with_reference(rows, self.spec, self.device, folder)

    def close(self) -> None:
        """Free the graph; calls under way finish. Closing twice is harmless."""
        self._runner.close()


class PlainRunner:
    """Takes every batch size as it comes; any number of threads run at once."""

    def __init__(
        self, session: ort.InferenceSession, spec: BuildSpec, device: Device, *, threads: int
    ) -> None:
        self._session: ort.InferenceSession | None = session
        self._name = spec.name
        self._device = device
        self.description = "any batch size" if device.is_cuda else f"any batch size, {threads} threads"

    def rows(self, pixels: Pixels) -> Rows:
        """(n, row_width) float32, of (n, H, W, 3) uint8. Raises Unavailable after `close`."""
        session = self._session
        if session is None:
            raise Unavailable(f"the backbone {self._name!r} was closed")
        feed: dict[str, Any] = {GRAPH_INPUT: np.ascontiguousarray(pixels)}
        with capture_gate().shared() if self._device.is_cuda else nullcontext():
            (rows,) = session.run([GRAPH_OUTPUT], feed)
        return np.asarray(rows, dtype=np.float32)

    def close(self) -> None:
        self._session = None


def _runner(
    graph: Path, spec: BuildSpec, device: Device, options: ort.SessionOptions, buckets: Sequence[int]
) -> Runner:
    """Raises CorruptState, Unavailable, StoreUnavailable, and what ONNX Runtime raises when it runs."""
    tensorrt = bool(buckets) and tensorrt_takes(spec, device)

    def load(graphs: bool) -> ort.InferenceSession:
        providers = device.provider_list(graphs=graphs)
        if tensorrt:
            providers.insert(0, tensorrt_provider(spec, device, graph.parent, buckets))
        try:
            # Its own fallback prints, and drops the options that the second try should have.
            loaded = ort.InferenceSession(
                str(graph), sess_options=options, providers=providers, enable_fallback=0
            )
        except Exception as exc:  # onnxruntime raises a class of its own for each status
            raise _load_error(exc, graph, device) from exc
        left_out = {name for name, _ in providers} - set(loaded.get_providers())
        if left_out:
            raise Unavailable(f"onnxruntime runs {graph} without {', '.join(sorted(left_out))}")
        _check_signature(loaded, spec, graph)
        return loaded

    if buckets:
        place = Place("cuda", device.device_id)
        # TensorRT replays one graph per thread, whatever the batch size.
        return open_bound(load, spec, buckets, place, graphs=not tensorrt)
    if not device.is_cuda:
        return PlainRunner(load(False), spec, device, threads=options.intra_op_num_threads)
    gate = capture_gate()
    with gate.opening, gate.shared():
        loaded = load(False)
    return PlainRunner(loaded, spec, device, threads=options.intra_op_num_threads)


def _load_error(exc: Exception, graph: Path, device: Device) -> TlserveError:
    """A GPU that is full says nothing about the file."""
    if device.is_cuda and "memory" in str(exc).lower():
        return Unavailable(f"{graph} does not fit into the memory of {device.name}: {exc}")
    return CorruptState(f"{graph} does not load on {device.name}: {exc}")


def _options(threads: int, *, spin: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    # A number, even where it equals the default, keeps onnxruntime from pinning threads to cores.
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Idle threads that spin take their cores from decoding and from the other process.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
    if spin:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _check_signature(session: ort.InferenceSession, spec: BuildSpec, graph: Path) -> None:
    inputs = [(node.name, node.type) for node in session.get_inputs()]
    outputs = [(node.name, node.type) for node in session.get_outputs()]
    wanted_in, wanted_out = [(GRAPH_INPUT, "tensor(uint8)")], [(GRAPH_OUTPUT, "tensor(float)")]
    if inputs != wanted_in or outputs != wanted_out:
        found, wanted = f"{inputs} -> {outputs}", f"{wanted_in} -> {wanted_out}"
        raise CorruptState(f"{graph} is not a build's graph: it maps {found}, not {wanted}")
    width = session.get_outputs()[0].shape[-1]
    if isinstance(width, int) and width != spec.row_width:
        raise CorruptState(f"{graph} gives rows of {width} numbers, its spec declares {spec.row_width}")
