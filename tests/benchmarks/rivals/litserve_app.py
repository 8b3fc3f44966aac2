"""LitServe's side of the comparison: one onnxruntime session behind a LitAPI.

    python litserve_app.py '{"port": 8000, "graph": "model.onnx", "workers": 1, ...}'

Runs in LitServe's own environment, never in tlserve's. The body of a request is the raw pixels, which spares
it JSON, base64 and multipart forms. No postponed annotations here: LitServe reads the one of `request`.
"""

import json
import sys
from typing import Annotated

import litserve as ls
import numpy as np
import onnxruntime as ort
from fastapi import Body

SIDE = 224


class Classifier(ls.LitAPI):
    """graph: an ONNX file; threads: the session's (0: onnxruntime's own)."""

    def __init__(self, graph: str, threads: int, max_batch_size: int, batch_timeout: float) -> None:
        super().__init__(max_batch_size=max_batch_size, batch_timeout=batch_timeout)
        self._graph, self._threads, self._batches = graph, threads, max_batch_size > 1

    def setup(self, device: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        self._session = ort.InferenceSession(self._graph, options, providers=["CPUExecutionProvider"])

    def decode_request(
        self, request: Annotated[bytes, Body(media_type="application/octet-stream")]
    ) -> np.ndarray:
        return np.frombuffer(request, np.uint8).reshape(SIDE, SIDE, 3)

    def predict(self, pixels: np.ndarray) -> np.ndarray:
        """Of a batch, or of one picture where nothing is batched."""
        feed = {"pixels": pixels if self._batches else pixels[None]}
        (probabilities,) = self._session.run(["probabilities"], feed)
        return probabilities

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        return list(output)

    # LitServe would take an annotation of what it returns for a schema, and check every answer against it.
    def encode_response(self, output: np.ndarray):
        return {"probabilities": output.reshape(-1).tolist()}


def main() -> None:
    asked = json.loads(sys.argv[1])
    api = Classifier(asked["graph"], asked["threads"], asked["max_batch_size"], asked["batch_timeout"])
    server = ls.LitServer(
        api,
        accelerator="cpu",
        devices=1,
        workers_per_device=asked["workers"],
        fast_queue=asked["fast_queue"],
    )
    server.run(
        host="127.0.0.1",
        port=asked["port"],
        num_api_servers=asked["api_servers"],
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()
