"""One loaded build: uint8 pictures in, bottleneck rows out, on the device that was chosen.

Learning and serving both go through here, so the features a head was trained on are the features it
is served with.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from tlserve.core.errors import BadInput, BuildMismatch, CorruptState, Unavailable
from tlserve.core.types import Pixels, Rows
from tlserve.runtime.devices import Device, usable_cores
from tlserve.runtime.spec import (
    GRAPH_FILE,
    GRAPH_INPUT,
    GRAPH_OUTPUT,
    REFERENCE_FILE,
    BuildSpec,
    read_build_spec,
    reference_pixels,
)

REFERENCE_TOLERANCE = 0.01
"""Largest allowed difference to the reference rows, per tap, as root mean square relative to the tap's own.

Processors differ by about 1e-6 and TensorFloat-32 by about 1e-3; a wrong graph, weights or channel order
by more than 0.1."""


class BackboneSession:
    """A build on a device. Any number of threads may call `rows` at once; it releases the GIL."""

    def __init__(
        self, spec: BuildSpec, device: Device, session: ort.InferenceSession, *, threads: int
    ) -> None:
        self.spec = spec
        self.device = device
        self.threads = threads
        """CPU threads that one call of `rows` uses."""
        self._session: ort.InferenceSession | None = session

    @classmethod
    def open(cls, folder: Path, device: Device, *, threads: int = 0, check: bool = True) -> BackboneSession:
        """Load the build in `folder`; `threads` 0 means one per usable core.

        With `check`, the stored reference rows must come out again: raises BuildMismatch when they do
        not. Raises CorruptState when a file of the build is missing or broken.
        """
        spec = read_build_spec(folder)
        threads = threads or usable_cores()
        graph = folder / GRAPH_FILE
        if not graph.is_file():
            raise CorruptState(f"{graph} is missing; delete {folder}, it is built again")
        try:
            loaded = ort.InferenceSession(
                str(graph), sess_options=_options(threads), providers=device.provider_list()
            )
        except Exception as exc:  # onnxruntime raises a class of its own for each status
            raise CorruptState(f"{graph} does not load on {device.name}: {exc}") from exc
        _check_signature(loaded, spec, graph)
        session = cls(spec, device, loaded, threads=threads)
        if check:
            session.check_reference(folder)
        return session

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
        session = self._session
        if session is None:
            raise Unavailable(f"the backbone {self.spec.name!r} was closed")
        feed: dict[str, Any] = {GRAPH_INPUT: np.ascontiguousarray(pixels)}
        (rows,) = session.run([GRAPH_OUTPUT], feed)
        return np.asarray(rows, dtype=np.float32)

    def warm_up(self, batch_sizes: Iterable[int] = (1,)) -> None:
        """Run each batch size once, so that no request pays for first-time allocations."""
        image = self.spec.image
        for size in batch_sizes:
            self.rows(np.zeros((size, image.height, image.width, 3), np.uint8))

    def check_reference(self, folder: Path) -> None:
        """Compare with the rows stored in `folder` when the build was made.

        Raises BuildMismatch when this host gives others, CorruptState when the file is unreadable.
        """
        stored = _read_reference(folder, self.spec)
        rows = self.rows(reference_pixels(self.spec.image))
        start = 0
        for tap in self.spec.taps:
            span = slice(start, start + tap.width)
            start += tap.width
            scale = float(np.sqrt(np.mean(np.square(stored[:, span], dtype=np.float64))))
            error = float(np.sqrt(np.mean(np.square(rows[:, span] - stored[:, span], dtype=np.float64))))
            if not error <= REFERENCE_TOLERANCE * max(scale, 1e-6):
                raise BuildMismatch(
                    f"the backbone {self.spec.name!r} on {self.device.name} does not reproduce its reference "
                    f"rows: tap {tap.name!r} differs by {error:.3g} where values are about {scale:.3g}; "
                    f"delete {folder} to build it anew"
                )

    def close(self) -> None:
        """Free the graph; calls under way finish. Closing twice is harmless."""
        self._session = None


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    # A number, even where it equals the default, keeps onnxruntime from pinning threads to cores.
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Idle threads that spin take their cores from decoding and from the other process.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
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


def _read_reference(folder: Path, spec: BuildSpec) -> Rows:
    path = folder / REFERENCE_FILE
    try:
        stored = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as exc:
        raise CorruptState(f"{path} cannot be read ({exc}); delete {folder}, it is built again") from exc
    if stored.ndim != 2 or stored.shape[1] != spec.row_width or not np.issubdtype(stored.dtype, np.floating):
        raise CorruptState(f"{path} holds {stored.dtype} {stored.shape}, not float32 (8, {spec.row_width})")
    return np.asarray(stored, dtype=np.float32)
