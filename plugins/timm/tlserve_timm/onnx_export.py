"""A network as one ONNX file with a free batch dimension."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from tlserve.plugin_api import INPUT_NAME, BackboneError

from .network import TappedNetwork

_ONNX_LIMIT_BYTES = 2**31 - 2**20
_OPSET = 18


def write_onnx(tapped: TappedNetwork, path: Path, height: int, width: int) -> None:
    """One ONNX file at `path`, batch dimension free, each tap as [N, width].

    Raises BackboneError if torch cannot export it, OSError if `path` cannot be written.
    """
    n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tapped.state_dict().values())
    if n_bytes > _ONNX_LIMIT_BYTES:
        raise BackboneError(f"{n_bytes / 1e9:.1f} GB of weights do not fit in one ONNX file (2 GB at most)")
    model = _exported(tapped, torch.zeros(2, 3, height, width))
    _forget_where_it_was_made(model.graph)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _exported(tapped: TappedNetwork, example: torch.Tensor) -> Any:
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter's notes to its own developers
            program = torch.onnx.export(
                tapped,
                (example,),
                input_names=[INPUT_NAME],
                output_names=list(tapped.widths),
                opset_version=_OPSET,
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("N")},),
                verbose=False,
            )
    except Exception as exc:  # the exporter names no root of its own
        raise BackboneError(f"torch {torch.__version__} cannot export this network: {exc}") from exc
    if program is None:
        raise BackboneError(f"torch {torch.__version__} exported nothing")
    return program.model_proto


def _forget_where_it_was_made(graph: Any) -> None:
    """Exporters write stack traces and paths of the machine into every node."""
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    del graph.metadata_props[:]
