"""A head as bytes and back: safetensors, so that reading a version can never run code.

The same head always gives the same bytes; their sha256 stands in the manifest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from tlserve.core.head import Dense, Float32, Head, Layer, Novelty, Projection

FORMAT = 1
_KEY = "tlserve_head"
_DENSE = ("weight", "bias")
_PROJECTION = ("mean", "scale")
_NOVELTY = ("mean", "scale", "centroids", "distances", "ranks")
_HALVED = ("novelty.scale", "novelty.centroids")
"""Kept as float16 wherever that loses nothing; training rounds them so that it does not."""


def head_to_bytes(head: Head) -> bytes:
    """One safetensors file. Raises ValueError for a head with NaN or infinity in it."""
    tensors: dict[str, npt.NDArray[np.floating]] = {}
    for index, layer in enumerate(head.layers):
        parts = _DENSE if isinstance(layer, Dense) else _PROJECTION
        tensors.update({f"layers.{index}.{name}": getattr(layer, name) for name in parts})
    if head.novelty is not None:
        tensors.update({f"novelty.{name}": getattr(head.novelty, name) for name in _NOVELTY})
        tensors["novelty.doubt"] = np.asarray([head.novelty.doubt_weight, head.novelty.sure_at])
    tensors = {name: np.ascontiguousarray(tensor, dtype=np.float32) for name, tensor in tensors.items()}
    _check_finite(tensors)
    tensors.update({name: _halved(tensors[name]) for name in _HALVED if name in tensors})
    facts = {
        "format": FORMAT,
        "labels": head.labels,
        "taps": head.taps,
        "n_layers": len(head.layers),
        "projection": _projection_facts(head.layers[0]),
        "link": head.link,
        "temperature": float(head.temperature),
        "novelty": head.novelty is not None,
    }
    # One key only: safetensors keeps its metadata in a hash map, and two would come in any order.
    return bytes(save(tensors, metadata={_KEY: json.dumps(facts)}))


def head_from_bytes(data: bytes) -> Head:
    """The inverse of `head_to_bytes`; raises ValueError for anything else."""
    try:
        facts = _facts(data)
        if facts["format"] != FORMAT:
            raise ValueError("written in another format, by another release of tlserve")
        tensors: dict[str, Float32] = {
            name: tensor.astype(np.float32, copy=False) for name, tensor in load(data).items()
        }
        _check_finite(tensors)
        layers = tuple(_layer(tensors, index, facts) for index in range(facts["n_layers"]))
        novelty = _novelty(tensors) if facts["novelty"] else None
        return Head(
            labels=tuple(facts["labels"]),
            taps=tuple(facts["taps"]),
            layers=layers,
            link=facts["link"],
            temperature=facts["temperature"],
            novelty=novelty,
        )
    except (SafetensorError, KeyError, TypeError, AttributeError, IndexError) as exc:
        raise ValueError(f"not a head: {exc!r}") from exc


def _projection_facts(first: Layer) -> dict[str, int] | None:
    """What names the random matrix of a projection: it is drawn again rather than kept."""
    return {"seed": first.seed, "n_out": first.n_out} if isinstance(first, Projection) else None


def _layer(tensors: dict[str, Float32], index: int, facts: dict[str, Any]) -> Layer:
    # Heads written before there were projections do not speak of them.
    projection = facts.get("projection")
    if index or projection is None:
        return Dense(*(tensors[f"layers.{index}.{name}"] for name in _DENSE))
    mean, scale = (tensors[f"layers.{index}.{name}"] for name in _PROJECTION)
    return Projection(mean, scale, seed=projection["seed"], n_out=projection["n_out"])


def _novelty(tensors: dict[str, Float32]) -> Novelty:
    # Heads written before doubt counted do not speak of it.
    weight, sure_at = tensors.get("novelty.doubt", np.zeros(2, np.float32)).tolist()
    mean, scale, centroids, distances, ranks = (tensors[f"novelty.{name}"] for name in _NOVELTY)
    return Novelty(mean, scale, centroids, distances, ranks, doubt_weight=weight, sure_at=sure_at)


def _halved(tensor: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    with np.errstate(over="ignore"):
        half = tensor.astype(np.float16)
    return half if np.array_equal(half, tensor) else tensor


def _facts(data: bytes) -> dict[str, Any]:
    """What stands beside the tensors, out of the header (8 bytes of length, then JSON)."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    facts = json.loads(header["__metadata__"][_KEY])
    if not isinstance(facts, dict):
        raise ValueError("not a head: its description is not an object")
    return facts


def _check_finite(tensors: Mapping[str, npt.NDArray[np.floating]]) -> None:
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise ValueError(f"the head's {name} holds NaN or infinity")
