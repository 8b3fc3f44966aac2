"""MLServer's side of the comparison: a custom runtime around one onnxruntime session.

Runs in MLServer's own environment, never in tlserve's. Written as its documentation has custom runtimes, and
for speed: the session runs on a thread, so that the event loop goes on taking requests, and pixels that come
as one BYTES element skip the list of numbers that a UINT8 tensor becomes.
"""

from __future__ import annotations

import asyncio

import numpy as np
import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse, RequestInput

SIDE = 224


class Classifier(MLModel):
    """Settings: parameters.uri is the graph, parameters.extra.threads the session's (0: its own)."""

    async def load(self) -> bool:
        parameters = self.settings.parameters
        options = ort.SessionOptions()
        options.intra_op_num_threads = parameters.extra["threads"]
        self._session = ort.InferenceSession(parameters.uri, options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        pixels = _pixels(payload.inputs[0])
        (probabilities,) = await asyncio.to_thread(self._session.run, ["probabilities"], {"pixels": pixels})
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output("probabilities", probabilities)]
        )


def _pixels(tensor: RequestInput) -> np.ndarray:
    """(n, 224, 224, 3) uint8."""
    if tensor.datatype == "BYTES":
        joined = b"".join(getattr(tensor.data, "root", tensor.data))
        return np.frombuffer(joined, np.uint8).reshape(-1, SIDE, SIDE, 3)
    return NumpyCodec.decode_input(tensor).reshape(-1, SIDE, SIDE, 3)
