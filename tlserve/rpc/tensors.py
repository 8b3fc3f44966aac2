"""Tensors of the Open Inference Protocol to images, without a copy where pixels come raw.

Every way in which a request can be wrong raises BadInput with what to change.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import numpy.typing as npt

from tlserve.core.errors import BadInput
from tlserve.core.types import Pixels
from tlserve.rpc._gen import inference_pb2 as oip

Input = oip.ModelInferRequest.InferInputTensor

IMAGE = "image"
PIXELS = "pixels"
_EXACTLY_ONE = (
    "give exactly one of the inputs 'image' (BYTES [N], encoded files) and 'pixels' (UINT8 [N, H, W, 3])"
)
_DATATYPES = {IMAGE: "BYTES", PIXELS: "UINT8"}


def read_images(request: oip.ModelInferRequest) -> Sequence[bytes] | Pixels:
    """The images of a request: encoded files, or pixels (N, H, W, 3) uint8 that view the message's bytes."""
    tensor = _only_input(request)
    raw = _raw_bytes(request, tensor)
    if tensor.name == IMAGE:
        n_images = _image_count(tensor)
        images = list(tensor.contents.bytes_contents) if raw is None else split_bytes(raw, n_images)
        if len(images) != n_images:
            raise BadInput(f"input 'image': shape {_shape(tensor)}, but {len(images)} elements in contents")
        return images
    shape = _pixel_shape(tensor)
    flat = _typed_pixels(tensor) if raw is None else np.frombuffer(raw, dtype=np.uint8)
    if flat.size != prod(shape):
        raise BadInput(
            f"input 'pixels': shape {list(shape)} needs {prod(shape)} bytes, but there are {flat.size}"
        )
    return flat.reshape(shape)


def _only_input(request: oip.ModelInferRequest) -> Input:
    for tensor in request.inputs:
        if tensor.name not in _DATATYPES:
            raise BadInput(f"unknown input {tensor.name[:80]!r}; {_EXACTLY_ONE}")
    if len(request.inputs) != 1:
        raise BadInput(f"{len(request.inputs)} inputs; {_EXACTLY_ONE}")
    tensor = request.inputs[0]
    wanted = _DATATYPES[tensor.name]
    if tensor.datatype != wanted:
        raise BadInput(f"input {tensor.name!r} must have datatype {wanted}, not {tensor.datatype[:80]!r}")
    if any(key.startswith("shared_memory") for key in tensor.parameters):
        raise BadInput(f"input {tensor.name!r}: shared memory is not offered; send the tensor in the request")
    return tensor


def _raw_bytes(request: oip.ModelInferRequest, tensor: Input) -> bytes | None:
    """The raw contents of the one input; None when it comes typed."""
    if not request.raw_input_contents:
        return None
    if len(request.raw_input_contents) != 1:
        raise BadInput(
            f"1 input, but {len(request.raw_input_contents)} raw_input_contents; give one for each input"
        )
    if tensor.HasField("contents") and tensor.contents.ByteSize():
        raise BadInput(f"input {tensor.name!r} comes both in contents and in raw_input_contents; give one")
    return request.raw_input_contents[0]


def _image_count(tensor: Input) -> int:
    shape = _shape(tensor)
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1) or shape[0] < 1:
        raise BadInput(f"input 'image' must have shape [N] or [N, 1] with N of at least 1, not {shape}")
    return shape[0]


def _pixel_shape(tensor: Input) -> tuple[int, int, int, int]:
    shape = _shape(tensor)
    if len(shape) != 4 or shape[3] != 3 or min(shape) < 1:
        raise BadInput(
            f"input 'pixels' must have shape [N, H, W, 3], each at least 1 (RGB, bytes), not {shape}"
        )
    return shape[0], shape[1], shape[2], shape[3]


def _shape(tensor: Input) -> list[int]:
    if len(tensor.shape) > 8:
        raise BadInput(f"input {tensor.name!r}: a shape with {len(tensor.shape)} dimensions")
    return list(tensor.shape)


def _typed_pixels(tensor: Input) -> npt.NDArray[np.uint8]:
    values = np.array(tensor.contents.uint_contents, dtype=np.uint32)
    if values.size == 0:
        raise BadInput("input 'pixels' is empty; send raw_input_contents, or contents.uint_contents")
    if values.max() > 255:
        raise BadInput(f"input 'pixels': {values.max()} in uint_contents does not fit UINT8")
    return values.astype(np.uint8)


def split_bytes(raw: bytes, count: int) -> list[bytes]:
    """The elements of a raw BYTES tensor: each stands behind its length, 4 bytes, little endian."""
    elements: list[bytes] = []
    at = 0
    while at < len(raw):
        start = at + 4
        at = start + int.from_bytes(raw[at:start], "little")
        if at > len(raw) or start > len(raw):
            raise BadInput(f"input 'image': element {len(elements)} runs past the end of raw_input_contents")
        elements.append(raw[start:at])
        if len(elements) > count:
            break
    if len(elements) != count:
        found = f"more than {count}" if len(elements) > count else len(elements)
        raise BadInput(f"input 'image': shape says {count}, but raw_input_contents holds {found} elements")
    return elements


def join_bytes(elements: Sequence[bytes]) -> bytes:
    """A raw BYTES tensor of `elements`: the reverse of `split_bytes`."""
    return b"".join(len(element).to_bytes(4, "little") + element for element in elements)
