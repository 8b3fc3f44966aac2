"""Clients for the serving benchmark: as many as asked, each sending its next request when it has its answer.

Requests are serialised once and answers are only checked for their length, so that this process takes
as little of the machine as a client in a faster language would.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np

from tlserve.rpc._gen import inference_pb2 as oip

METHOD = "/inference.GRPCInferenceService/ModelInfer"
MODEL = "flowers"
N_CHANNELS = 4


def pixel_requests(n: int = 16) -> list[bytes]:
    draw = np.random.default_rng(0)
    requests = []
    for _ in range(n):
        request = oip.ModelInferRequest(model_name=MODEL)
        request.inputs.add(name="pixels", datatype="UINT8", shape=[1, 224, 224, 3])
        request.raw_input_contents.append(draw.bytes(224 * 224 * 3))
        requests.append(request.SerializeToString())
    return requests


def image_requests(photos: list[Path]) -> list[bytes]:
    requests = []
    for photo in photos:
        request = oip.ModelInferRequest(model_name=MODEL)
        tensor = request.inputs.add(name="image", datatype="BYTES", shape=[1])
        tensor.contents.bytes_contents.append(photo.read_bytes())
        requests.append(request.SerializeToString())
    return requests


async def ask(calls: list[Any], requests: list[bytes], seconds: float, n_clients: int) -> dict[str, Any]:
    """Let the clients ask for `seconds`; images answered, their rate and the latencies."""
    latencies: list[float] = []
    started, cpu = time.perf_counter(), time.process_time()
    stop = started + seconds

    async def client(index: int) -> None:
        call, turns = calls[index % len(calls)], itertools.cycle(requests[index % len(requests) :] + requests)
        while time.perf_counter() < stop:
            began = time.perf_counter()
            answer = await call(next(turns))
            latencies.append(time.perf_counter() - began)
            if len(answer) < 20:
                raise RuntimeError("that is no answer")

    await asyncio.gather(*(client(index) for index in range(n_clients)))
    p50, p99 = np.percentile(latencies, (50, 99)) * 1000
    return {
        "images": len(latencies),
        "rate": len(latencies) / (time.perf_counter() - started),
        "cpu_seconds": time.process_time() - cpu,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
    }


async def main() -> None:
    """One line in (`pixels|jpeg SECONDS CLIENTS`), one line of JSON out, until the input ends."""
    address, photos = sys.argv[1], [Path(name) for name in sys.argv[2:]]
    requests = {"pixels": pixel_requests(), "jpeg": image_requests(photos)}
    channels = [
        grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        for _ in range(N_CHANNELS)
    ]
    calls = [
        channel.unary_unary(METHOD, request_serializer=None, response_deserializer=None)
        for channel in channels
    ]
    while line := await asyncio.to_thread(sys.stdin.readline):
        path, seconds, n_clients = line.split()
        print(json.dumps(await ask(calls, requests[path], float(seconds), int(n_clients))), flush=True)
    for channel in channels:
        await channel.close(None)


if __name__ == "__main__":
    asyncio.run(main())
