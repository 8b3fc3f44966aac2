"""One answer of a server, whichever protocol it speaks: to see that it is up, and that it is right."""

from __future__ import annotations

import http.client
import json

import grpc
import numpy as np
import numpy.typing as npt

from tests.benchmarks.serving_clients import METHOD, grpc_request
from tlserve.rpc._gen import inference_pb2 as oip

Probabilities = npt.NDArray[np.float32]
OUTPUT = "probabilities"


def probabilities(protocol: str, address: str, model: str, payload: str, picture: bytes) -> Probabilities:
    """Of one picture: (n_classes,) float32. Raises OSError, grpc.RpcError or RuntimeError."""
    if protocol == "http":
        return _over_http(address, picture)
    return _over_grpc(address, grpc_request(model, payload, picture))


def _over_http(address: str, picture: bytes) -> Probabilities:
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request("POST", "/predict", picture, {"Content-Type": "application/octet-stream"})
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise RuntimeError(f"{answer.status}: {body[:500]!r}")
    return np.asarray(json.loads(body)[OUTPUT], np.float32)


def _over_grpc(address: str, request: bytes) -> Probabilities:
    # Its own connection each time: one that failed would go on failing for a while.
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        call = channel.unary_unary(METHOD, response_deserializer=oip.ModelInferResponse.FromString)
        answer = call(request, timeout=10)
    index = [output.name for output in answer.outputs].index(OUTPUT)
    if answer.raw_output_contents:
        return np.frombuffer(answer.raw_output_contents[index], np.float32)
    return np.asarray(answer.outputs[index].contents.fp32_contents, np.float32)
