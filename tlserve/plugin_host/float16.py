"""A build's graph in 16-bit floats: half the memory, and a GPU's matrix units.

Meant for GPUs. A CPU computes it too, slower than fp32, as ONNX Runtime casts around most operators there:
that is how it is tested. It has not run on a GPU yet.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from onnx import TensorProto, numpy_helper
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import convert_float_to_float16

LARGEST = float(np.finfo(np.float16).max)


def in_float16(model: Any) -> Any:
    """The graph of a build's `model` in float16; pictures still come in as uint8, rows leave as float32.

    Changes `model`. Raises ValueError where a weight is outside float16's range, and what the converter
    raises.
    """
    too_large = [tensor.name for tensor in model.graph.initializer if not _fits(tensor)]
    if too_large:
        raise ValueError(f"{too_large[0]!r} holds numbers over {LARGEST:.0f}, the largest in float16")
    with warnings.catch_warnings():
        # Of each weight below 6e-8, which becomes 0.
        warnings.simplefilter("ignore")
        reduced = convert_float_to_float16(model, keep_io_types=True)
    # The converter appends its casts behind the nodes that need them.
    ONNXModel(reduced).topological_sort()
    return reduced


def _fits(tensor: Any) -> bool:
    if tensor.data_type != TensorProto.FLOAT:
        return True
    return float(np.abs(numpy_helper.to_array(tensor)).max(initial=0.0)) <= LARGEST
