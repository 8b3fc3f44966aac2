"""What a load run shows to a model: the user's own files, or what is made up, always the same."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from tlserve.core.errors import BadInput

N_MADE_UP = 16
"""Different ones, so that no server can live on remembering one."""
PICTURE_WIDTH, PICTURE_HEIGHT, JPEG_QUALITY = 500, 333, 90
"""Of a small photo, and about as many bytes."""
KEPT_BYTES = 256 * 1024 * 1024
"""All requests are kept in memory; of files beyond this, the first are used."""

DTYPES: dict[str, npt.DTypeLike] = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Encoded:
    """An input that takes files. rest: its shape behind the batch, () or (1,)."""

    name: str
    rest: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input that takes numbers. rest: the shape of one element of the batch."""

    name: str
    datatype: str
    rest: tuple[int, ...]


def encoded_batches(files: Sequence[Path], batch: int) -> tuple[list[list[bytes]], str]:
    """Batches of encoded images, and in words what they are. Raises BadInput for a file that is not read."""
    if not files:
        made = [made_up_picture(seed) for seed in range(N_MADE_UP)]
        size = sum(map(len, made)) / len(made) / 1024
        return _in_batches(made, batch), (
            f"made-up JPEGs of {PICTURE_WIDTH}x{PICTURE_HEIGHT}, {size:.0f} KB each"
        )
    images = _as_kept(files, _file_bytes)
    size = sum(map(len, images)) / len(images) / 1024
    return _in_batches(images, batch), f"{_of_files(len(images), len(files))}, {size:.0f} KB each"


def tensor_batches(tensor: Tensor, files: Sequence[Path], batch: int) -> tuple[list[bytes], str]:
    """Raw batches of numbers, and in words what they are. Raises BadInput for what cannot be made.

    Files become RGB of the tensor's size, as bytes, or as 0 to 1 where it takes floating point.
    """
    if tensor.datatype not in DTYPES:
        raise BadInput(f"input {tensor.name!r} takes {tensor.datatype}, which cannot be made here")
    size = f"{tensor.datatype} {'x'.join(map(str, tensor.rest))}"
    if not files:
        n_made = max(1, min(N_MADE_UP, KEPT_BYTES // (batch * _n_bytes(tensor))))
        draw = np.random.default_rng(0)
        return [_numbers(draw, tensor, batch) for _ in range(n_made)], f"random {size}"
    rows = _as_kept(files, lambda file: _file_pixels(file, tensor))
    batches = [b"".join(rows) for rows in _in_batches(rows, batch)]
    return batches, f"{_of_files(len(rows), len(files))} as {size}"


def made_up_picture(seed: int) -> bytes:
    """A JPEG with soft shapes and some grain, which takes about as long to decode as a photo of its size."""
    draw = np.random.default_rng(seed)
    size = (PICTURE_WIDTH, PICTURE_HEIGHT)
    picture = np.zeros((PICTURE_HEIGHT, PICTURE_WIDTH, 3), dtype=np.float32)
    for cells, strength in ((4, 1.0), (24, 0.5), (120, 0.25)):
        coarse = Image.fromarray(draw.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        picture += strength * np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    picture += draw.normal(0, 4, picture.shape).astype(np.float32)
    picture *= 255 / max(float(picture.max()), 1.0)
    buffer = io.BytesIO()
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _as_kept(files: Sequence[Path], read: Callable[[Path], bytes]) -> list[bytes]:
    kept: list[bytes] = []
    n_bytes = 0
    for file in files:
        kept.append(read(file))
        n_bytes += len(kept[-1])
        if n_bytes >= KEPT_BYTES:
            break
    return kept


def _in_batches(images: Sequence[bytes], batch: int) -> list[list[bytes]]:
    """All images in batches of exactly so many; the last one is filled up from the start."""
    n_batches = -(-len(images) // batch)
    return [
        [images[index % len(images)] for index in range(number * batch, (number + 1) * batch)]
        for number in range(n_batches)
    ]


def _numbers(draw: np.random.Generator, tensor: Tensor, batch: int) -> bytes:
    dtype = np.dtype(DTYPES[tensor.datatype])
    shape = (batch, *tensor.rest)
    if dtype.kind == "f":
        return draw.random(shape, dtype=np.float32).astype(dtype).tobytes()
    return draw.integers(0, 2 if dtype.kind == "b" else 128, shape).astype(dtype).tobytes()


def _file_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as exc:
        raise BadInput(f"cannot read {file}: {exc.strerror}") from exc


def _file_pixels(file: Path, tensor: Tensor) -> bytes:
    """One file as the tensor's numbers, with its channels where the tensor has them."""
    channels_first = len(tensor.rest) == 3 and tensor.rest[0] == 3
    if len(tensor.rest) != 3 or 3 not in (tensor.rest[0], tensor.rest[2]):
        raise BadInput(
            f"input {tensor.name!r} of shape {[-1, *tensor.rest]} takes no pictures; give no files"
        )
    height, width = tensor.rest[1:] if channels_first else tensor.rest[:2]
    try:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB").resize((width, height)))
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as exc:
        raise BadInput(f"{file} is no image that can be read: {exc}") from exc
    if channels_first:
        pixels = pixels.transpose(2, 0, 1)
    dtype = np.dtype(DTYPES[tensor.datatype])
    return (pixels / 255 if dtype.kind == "f" else pixels).astype(dtype).tobytes()


def _n_bytes(tensor: Tensor) -> int:
    return prod(tensor.rest) * np.dtype(DTYPES[tensor.datatype]).itemsize


def _of_files(used: int, given: int) -> str:
    files = "file" if given == 1 else "files"
    return f"{used:,} {files}" if used == given else f"{used:,} of {given:,} {files}"
