"""How the weights are stored: one byte each, so that a network of twice the size fits the package.

Each output channel of a convolution is scaled to its largest weight and rounded to -127 .. 127; norms and
biases, which are few, stay float32. The network runs in float32 on the rounded weights: what is measured,
exported and fine-tuned is what is stored.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

_SCALE = ".scale"
_COUNTERS = "num_batches_tracked"
"""Steps of batch norms: nothing reads them."""


def write_weights(network: nn.Module, path: Path) -> None:
    """Store the network's state; a reader of `path` sees the whole file or none."""
    stored: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        if name.endswith(_COUNTERS):
            continue
        if tensor.ndim == 4:
            scale = tensor.abs().amax(dim=(1, 2, 3)).clamp(min=1e-8) / 127
            stored[name] = torch.round(tensor / scale.view(-1, 1, 1, 1)).to(torch.int8).contiguous()
            stored[name + _SCALE] = scale
        else:
            stored[name] = tensor.float().contiguous()
    temporary = path.with_name(path.name + ".part")
    save_file(stored, temporary)
    temporary.replace(path)


def read_weights(weights: bytes) -> dict[str, Tensor]:
    """The state of a network, float32, from the bytes of a file that `write_weights` wrote.

    Raises ValueError if they are not that.
    """
    try:
        stored = load(weights)
    except SafetensorError as exc:
        raise ValueError(str(exc)) from exc
    scales = {name: stored.pop(name) for name in list(stored) if name.endswith(_SCALE)}
    state = {name: tensor.float() for name, tensor in stored.items()}
    for name, scale in scales.items():
        key = name.removesuffix(_SCALE)
        if key not in state or state[key].shape[:1] != scale.shape:
            raise ValueError(f"{name} belongs to no tensor")
        state[key] = state[key] * scale.view(-1, 1, 1, 1)
    return state
