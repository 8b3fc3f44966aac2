"""What the teacher says of each view, asked once and kept on disk.

The teacher's last feature map is averaged over the whole view and over its four quarters: the quarters tell
the student where in the picture the teacher sees what, which is four times as much to learn from.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import Tensor
from torch.nn import functional

from .pictures import Pixels, save_whole
from .views import look

log = logging.getLogger("nano.teacher")

N_PLACES = 5
"""The whole view, then its quarters from top left to bottom right."""
MIRRORED = (0, 2, 1, 4, 3)
"""Order of the places in the mirror image of a view."""
_BATCH = 32
_CHUNK = 2048


@dataclass(frozen=True)
class Targets:
    """The teacher's descriptions: of every view of every picture, and their scale."""

    rows: npt.NDArray[np.float16]
    """(n_views, n, 5, width), memory-mapped, as the teacher gives them"""
    mean: npt.NDArray[np.float32]
    std: npt.NDArray[np.float32]
    """(width,) over the whole pictures"""

    @property
    def width(self) -> int:
        return int(self.rows.shape[-1])

    def of(self, views: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> Tensor:
        """(n, 5, width) float32, standardised and clipped at 6."""
        raw = np.asarray(self.rows[views, rows], dtype=np.float32)
        return torch.from_numpy(((raw - self.mean) / self.std).clip(-6, 6))


@dataclass(frozen=True, slots=True)
class Teacher:
    """An ONNX file with a JSON sidecar beside it that gives its image spec."""

    path: Path
    tensor: str
    """Its last feature map, (n, width, h, w)."""
    threads: int


def ask_teacher(teacher: Teacher, pixels: Pixels, places: npt.NDArray[np.float32], cache: Path) -> Targets:
    """What the teacher says of each view; asked for what the cache folder lacks.

    Raises ValueError if the teacher has no such tensor.
    """
    path = cache / "targets.npy"
    if not path.exists():
        _fill(path, _session(teacher), _spec(teacher.path), pixels, places)
    rows = np.load(path, mmap_mode="r")
    whole = np.asarray(rows[0, :, 0], dtype=np.float32)
    return Targets(rows, whole.mean(axis=0), whole.std(axis=0) + 1e-3)


def _spec(teacher: Path) -> dict[str, Any]:
    image: dict[str, Any] = json.loads(teacher.with_suffix(".json").read_text())["image"]
    return image


def _session(teacher: Teacher) -> onnxruntime.InferenceSession:
    model = onnx.load(teacher.path)
    if not any(teacher.tensor in node.output for node in model.graph.node):
        raise ValueError(f"{teacher.path} has no tensor {teacher.tensor!r}")
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(teacher.tensor))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = teacher.threads
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _fill(
    path: Path,
    session: onnxruntime.InferenceSession,
    image: dict[str, Any],
    pixels: Pixels,
    places: npt.NDArray[np.float32],
) -> None:
    """Chunk by chunk into one array; the count beside it says how far an interrupted run came."""
    part, count = path.with_name("targets.part.npy"), path.with_name("targets.count.npy")
    done = int(np.load(count)) if count.exists() else 0
    chunks = list(_chunks(len(places), len(pixels)))
    rows: np.memmap[Any, np.dtype[np.float16]] | None = np.load(part, mmap_mode="r+") if done else None
    start = time.monotonic()
    for number, (view, first, last) in enumerate(chunks):
        if number < done:
            continue
        found = _described(session, image, pixels[first:last], places[view, first:last])
        if rows is None:
            shape = (len(places), len(pixels), *found.shape[1:])
            rows = np.lib.format.open_memmap(part, "w+", np.float16, shape)
        rows[view, first:last] = found
        if number % 4 == 3 or number == len(chunks) - 1:
            rows.flush()
            save_whole(count, np.array(number + 1))
            log.info("teacher: %d of %d chunks, %.0f s", number + 1, len(chunks), time.monotonic() - start)
    part.replace(path)


def _chunks(n_views: int, n: int) -> Iterator[tuple[int, int, int]]:
    for view in range(n_views):
        for first in range(0, n, _CHUNK):
            yield view, first, min(n, first + _CHUNK)


def _described(
    session: onnxruntime.InferenceSession,
    image: dict[str, Any],
    pixels: Pixels,
    places: npt.NDArray[np.float32],
) -> npt.NDArray[np.float16]:
    """(n, 5, width)"""
    mean, std = (torch.tensor(image[key], dtype=torch.float32).view(1, 3, 1, 1) for key in ("mean", "std"))
    parts = []
    for first in range(0, len(pixels), _BATCH):
        whole = torch.from_numpy(np.array(pixels[first : first + _BATCH])).permute(0, 3, 1, 2).float()
        view = look(whole, torch.from_numpy(places[first : first + _BATCH]), int(image["height"]))
        given = {session.get_inputs()[0].name: ((view - mean) / std).numpy()}
        maps = torch.from_numpy(session.run(None, given)[0])
        parts.append(over_places(maps).half().numpy())
    return np.concatenate(parts)


def over_places(maps: Tensor) -> Tensor:
    """Feature maps (n, width, h, w) averaged over the whole and over its quarters: (n, 5, width)."""
    quarters = functional.adaptive_avg_pool2d(maps, 2).flatten(2)
    return torch.cat([maps.mean(dim=(2, 3)).unsqueeze(2), quarters], dim=2).transpose(1, 2)
