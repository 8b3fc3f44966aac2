"""A network's numbers as bytes in one order: their digest, and their file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from tlserve.core.errors import StoreUnavailable

WEIGHTS_FILE = "weights.safetensors"


def state_digest(module: nn.Module) -> str:
    """sha256 (hex) over all parameters and buffers, in the order of their names: names, types, shapes, bytes.

    The same numbers give the same digest on any device and in any memory format.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        plain = tensor.detach().cpu().contiguous()
        digest.update(json.dumps([name, str(plain.dtype), list(plain.shape)]).encode())
        digest.update(np.ascontiguousarray(plain.reshape(-1).view(torch.uint8).numpy()).tobytes())
    return digest.hexdigest()


def save_weights(module: nn.Module, path: Path) -> None:
    """All parameters and buffers, by name, in one safetensors file, replaced in one step.

    Raises StoreUnavailable.
    """
    # Tensors that share memory are refused; so are those that are not contiguous.
    state = {name: t.detach().cpu().clone().contiguous() for name, t in module.state_dict().items()}
    making = path.with_suffix(".part")
    try:
        save_file(state, making)
        making.replace(path)
    except Exception as exc:  # safetensors raises a class of its own for a full disk
        raise StoreUnavailable(f"cannot write the tuned weights {path}: {exc}") from exc
