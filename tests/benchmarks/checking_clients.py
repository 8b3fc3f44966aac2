"""Clients that check every answer: as many as asked, in a process of their own.

One order a line on standard input (`Order` as JSON), one line of what was seen on standard output (`Seen`
as JSON). The answer key lies in the folder that is named first.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
import numpy as np

from tests.benchmarks.answer_key import AnswerKey

METHOD = "/inference.GRPCInferenceService/ModelInfer"
N_CHANNELS = 4
LIMIT_SECONDS = 30.0
"""An answer that takes longer is a failure."""


@dataclass(frozen=True)
class Order:
    """What to ask, and for how long."""

    seconds: float
    clients: int
    models: tuple[str, ...]
    kinds: tuple[str, ...] = ("pixels",)
    """pixels, image, or both in turns."""
    per_second: float = 0.0
    """Requests in all; 0: each client asks anew as soon as it has its answer."""
    bad_every: int = 0
    """Every so manieth request is no picture at all, and must be refused as such; 0: none."""
    keep_latencies: bool = False
    """Whether each one is told."""


@dataclass(frozen=True)
class Seen:
    """How the requests of an order went."""

    answered: int = 0
    refused: int = 0
    """Of what was no picture: refused as it must be."""
    failed: dict[str, int] = field(default_factory=dict)
    """By gRPC status."""
    wrong: int = 0
    examples: list[str] = field(default_factory=list)
    """Of failed requests and wrong answers."""
    versions: dict[str, int] = field(default_factory=dict)
    """Answers by `model:version`."""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Of this process."""
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    p99_ms: float = 0.0
    longest_ms: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    """Of all answers, where they were to be kept."""

    @property
    def errors(self) -> int:
        """Requests that did not get the answer they should."""
        return sum(self.failed.values()) + self.wrong

    @property
    def per_second(self) -> float:
        return self.answered / self.seconds if self.seconds else 0.0


class CheckingClients:
    """The process, from the benchmark's side: `start` an order, do something else, wait with `seen`."""

    def __init__(self, address: str, key: Path) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.checking_clients", str(key), address]
        # Not in the terminal's group: Ctrl-C is for the benchmark, which ends it in order.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def start(self, order: Order) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(order)) + "\n")
        self._process.stdin.flush()

    def seen(self) -> Seen:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the client process died")
        return Seen(**json.loads(line))

    def ask(self, order: Order) -> Seen:
        self.start(order)
        return self.seen()


# -- within the process


class _Asking:
    """One order under way."""

    def __init__(self, key: AnswerKey, requests: dict[tuple[str, str, int], bytes], order: Order) -> None:
        self.key, self.requests, self.order = key, requests, order
        self.latencies: list[float] = []
        self.failed: Counter[str] = Counter()
        self.versions: Counter[str] = Counter()
        self.examples: list[str] = []
        self.wrong = self.refused = 0
        self.numbers = itertools.count()
        self.began = time.perf_counter()

    async def client(self, call: Any) -> None:
        """Ask until the time is over. At a rate, the clients share one schedule."""
        stop = self.began + self.order.seconds
        for number in self.numbers:
            if self.order.per_second:
                turn = self.began + number / self.order.per_second
                if turn >= stop:
                    return
                await asyncio.sleep(max(0.0, turn - time.perf_counter()))
            if time.perf_counter() >= stop:
                return
            if self.order.bad_every and number % self.order.bad_every == self.order.bad_every - 1:
                await self._bad(call, number)
            else:
                await self._one(call, number)

    async def _one(self, call: Any, number: int) -> None:
        model, kind, picture = self._what(number)
        data = self._request(model, kind, picture)
        began = time.perf_counter()
        try:
            answer = await call(data, timeout=LIMIT_SECONDS)
        except grpc.aio.AioRpcError as exc:
            self.failed[exc.code().name] += 1
            self._example(f"{exc.code().name}: {exc.details()}")
            return
        self.latencies.append(time.perf_counter() - began)
        version, fault = self.key.fault(answer, model, picture)
        self.versions[f"{model}:{version}"] += 1
        if fault:
            self.wrong += 1
            self._example(fault)

    async def _bad(self, call: Any, number: int) -> None:
        model, _, _ = self._what(number)
        try:
            await call(self._request(model, "bad", -1), timeout=LIMIT_SECONDS)
        except grpc.aio.AioRpcError as exc:
            if exc.code() is grpc.StatusCode.INVALID_ARGUMENT:
                self.refused += 1
                return
            self.failed[f"{exc.code().name} for a bad image"] += 1
            self._example(f"a bad image: {exc.code().name}: {exc.details()}")
        else:
            self.failed["a bad image was answered"] += 1

    def _what(self, number: int) -> tuple[str, str, int]:
        models, kinds = self.order.models, self.order.kinds
        turn, model = divmod(number, len(models))
        return models[model], kinds[turn % len(kinds)], (turn // len(kinds)) % len(self.key.files)

    def _request(self, model: str, kind: str, picture: int) -> bytes:
        data = self.requests.get((model, kind, picture))
        if data is None:
            data = self.key.request(model, kind, picture)
            self.requests[model, kind, picture] = data
        return data

    def _example(self, words: str) -> None:
        if len(self.examples) < 5:
            self.examples.append(words)

    def seen(self, cpu_seconds: float) -> Seen:
        milliseconds = np.array(self.latencies or [float("nan")]) * 1000
        p50, p95, p99 = (float(value) for value in np.percentile(milliseconds, (50, 95, 99)))
        return Seen(
            answered=len(self.latencies),
            refused=self.refused,
            failed=dict(self.failed),
            wrong=self.wrong,
            examples=self.examples,
            versions=dict(self.versions),
            seconds=time.perf_counter() - self.began,
            cpu_seconds=cpu_seconds,
            p50_ms=p50,
            p95_ms=p95,
            p99_ms=p99,
            longest_ms=float(milliseconds.max()),
            latencies_ms=milliseconds.round(3).tolist() if self.order.keep_latencies else [],
        )


def _orders() -> Iterator[Order]:
    for line in iter(sys.stdin.readline, ""):
        raw = json.loads(line)
        yield Order(**{**raw, "models": tuple(raw["models"]), "kinds": tuple(raw["kinds"])})


async def main() -> None:
    key = AnswerKey.read(Path(sys.argv[1]))
    channels = [
        grpc.aio.insecure_channel(sys.argv[2], options=[("grpc.use_local_subchannel_pool", 1)])
        for _ in range(N_CHANNELS)
    ]
    calls = [channel.unary_unary(METHOD) for channel in channels]
    requests: dict[tuple[str, str, int], bytes] = {}
    orders = _orders()
    while (order := await asyncio.to_thread(next, orders, None)) is not None:
        asking, cpu = _Asking(key, requests, order), time.process_time()
        await asyncio.gather(*(asking.client(calls[i % N_CHANNELS]) for i in range(order.clients)))
        print(json.dumps(asdict(asking.seen(time.process_time() - cpu))), flush=True)
    for channel in channels:
        await channel.close(None)


if __name__ == "__main__":
    asyncio.run(main())
