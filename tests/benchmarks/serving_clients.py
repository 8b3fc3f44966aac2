"""Clients for the serving benchmarks: as many as asked, each sending its next request when it has its answer.

They run in a process of their own: one `Order` as JSON a line on standard input, one `Seen` a line on
standard output. Requests are serialised once and answers are looked at only as far as "is that one", so that
this process takes as little of the machine as a client in a faster language would.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc.aio
import numpy as np

from tlserve.rpc._gen import inference_pb2 as oip

METHOD = "/inference.GRPCInferenceService/ModelInfer"
N_CHANNELS = 4
N_PICTURES = 16
SIDE = 224
LONGEST_WAIT_SECONDS = 60.0
"""Nobody may hang for ever on a server that died."""

Ask = Callable[[bytes], Awaitable[bytes]]


@dataclass(frozen=True)
class Order:
    """What to ask of whom, and for how long."""

    address: str
    seconds: float
    clients: int
    models: tuple[str, ...] = ("model",)
    """Asked in turns."""
    payload: str = "pixels"
    """pixels (UINT8), bytes (the same pixels as one BYTES element), or jpeg."""
    protocol: str = "grpc"
    """grpc (Open Inference Protocol) or http (the pixels as the body of a POST to /predict)."""


@dataclass(frozen=True)
class Seen:
    """How it went."""

    images: int
    rate: float
    """Answers a second."""
    cpu_seconds: float
    """Of this process."""
    p50_ms: float
    p99_ms: float


class Clients:
    """The process with the clients in it, seen from the benchmark."""

    def __init__(self, photos: Path | None = None) -> None:
        """photos: a folder of JPEG files, sent as they are; needed for the payload jpeg only."""
        self._photos = photos

    def __enter__(self) -> Self:
        args = [sys.executable, "-m", "tests.benchmarks.serving_clients", str(self._photos or "")]
        self._process = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(LONGEST_WAIT_SECONDS)

    def ask(self, order: Order) -> Seen:
        """Raises RuntimeError when a request failed: these servers have no reason to."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(order)).encode() + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the clients died while they asked {order}")
        told = json.loads(line)
        if "error" in told:
            raise RuntimeError(f"{order}: {told['error']}")
        return Seen(**told)


# -- requests


@lru_cache
def pictures() -> tuple[bytes, ...]:
    """Raw pixels, the same for everybody who is asked."""
    draw = np.random.default_rng(0)
    return tuple(draw.bytes(SIDE * SIDE * 3) for _ in range(N_PICTURES))


def grpc_request(model: str, payload: str, content: bytes) -> bytes:
    """One picture as an Open Inference Protocol request, serialised."""
    request = oip.ModelInferRequest(model_name=model)
    if payload == "pixels":
        request.inputs.add(name="pixels", datatype="UINT8", shape=[1, SIDE, SIDE, 3])
        request.raw_input_contents.append(content)
    else:
        name = "image" if payload == "jpeg" else "pixels"
        tensor = request.inputs.add(name=name, datatype="BYTES", shape=[1])
        tensor.contents.bytes_contents.append(content)
    return request.SerializeToString()


def http_request(address: str, content: bytes) -> bytes:
    head = (
        f"POST /predict HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


@lru_cache(maxsize=16)
def requests_of(order: Order, photos: Path) -> list[bytes]:
    """One request for each model and picture, or enough of them; `order` without its seconds and clients."""
    contents = pictures()
    if order.payload == "jpeg":
        contents = tuple(path.read_bytes() for path in sorted(photos.glob("*.jpg")))
    if order.protocol == "http":
        return [http_request(order.address, content) for content in contents]
    turns = max(len(contents), len(order.models))
    return [
        grpc_request(model, order.payload, content)
        for model, content, _ in zip(itertools.cycle(order.models), itertools.cycle(contents), range(turns))
    ]


# -- connections


class GrpcConnections:
    """A few channels that all clients share, and that stay open between orders."""

    def __init__(self, address: str) -> None:
        # Without a pool of its own, every channel to one address would be the same connection.
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(N_CHANNELS)]

    async def ask(self, index: int) -> Ask:
        call = self._channels[index % N_CHANNELS].unary_unary(METHOD)

        async def ask(request: bytes) -> bytes:
            answer: bytes = await call(request, timeout=LONGEST_WAIT_SECONDS)
            return answer

        return ask

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close(None)


class HttpConnections:
    """One connection for each client, kept alive while an order lasts: HTTP with nothing to spare."""

    def __init__(self, address: str) -> None:
        self._host, _, self._port = address.rpartition(":")

    async def ask(self, index: int) -> Ask:
        # Anew for each order: servers hang up on who says nothing for some seconds.
        reader, writer = await asyncio.open_connection(self._host, int(self._port))

        async def ask(request: bytes) -> bytes:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(length)
            if not head.startswith(b"http/1.1 200"):
                raise RuntimeError(f"{head.decode()}{body.decode(errors='replace')}")
            return body

        return ask

    async def close(self) -> None:
        """Connections end with their last order."""


Connections = GrpcConnections | HttpConnections


# -- asking


async def carry_out(order: Order, requests: list[bytes], connections: Connections) -> Seen:
    """Let the clients ask for as long as the order says."""
    latencies: list[float] = []
    calls = [await connections.ask(index) for index in range(order.clients)]
    turns: Iterator[bytes] = itertools.cycle(requests)
    started, cpu = time.perf_counter(), time.process_time()
    stop = started + order.seconds

    async def client(ask: Ask) -> None:
        while time.perf_counter() < stop:
            began = time.perf_counter()
            answer = await ask(next(turns))
            latencies.append(time.perf_counter() - began)
            if len(answer) < 8:
                raise RuntimeError(f"that is no answer: {answer!r}")

    await asyncio.gather(*(client(ask) for ask in calls))
    p50, p99 = np.percentile(latencies, (50, 99)) * 1000
    return Seen(
        images=len(latencies),
        rate=len(latencies) / (time.perf_counter() - started),
        cpu_seconds=time.process_time() - cpu,
        p50_ms=float(p50),
        p99_ms=float(p99),
    )


async def main() -> None:
    photos, open_connections = Path(sys.argv[1]), dict[tuple[str, str], Connections]()
    while line := await asyncio.to_thread(sys.stdin.readline):
        raw: dict[str, Any] = json.loads(line)
        order = Order(**{**raw, "models": tuple(raw["models"])})
        key = order.protocol, order.address
        if key not in open_connections:
            kind = GrpcConnections if order.protocol == "grpc" else HttpConnections
            open_connections[key] = kind(order.address)
        plain = Order(order.address, 0, 0, order.models, order.payload, order.protocol)
        try:
            seen = await carry_out(order, requests_of(plain, photos), open_connections[key])
            print(json.dumps(asdict(seen)), flush=True)
        except (grpc.RpcError, RuntimeError, OSError, EOFError) as exc:
            print(json.dumps({"error": str(exc)[:2000]}), flush=True)
    for connections in open_connections.values():
        await connections.close()


if __name__ == "__main__":
    asyncio.run(main())
