"""One process of the load generator: asks for a while, then hands over what it counted.

`load.py` starts it, sends it a `Share` on stdin, waits for READY on stdout, and sends the moment to start;
the end of stdin ends the run early. The `Tally` comes on stdout. A process of its own, so that the caller's
threads and event loop stay out of the figures, and several can share the work.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import random
import selectors
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import grpc
from grpc import aio

from tlserve.client.channel import channel_options
from tlserve.client.errors import translated
from tlserve.client.load_report import Tally
from tlserve.client.load_requests import Share
from tlserve.client.operations import OIP
from tlserve.rpc._gen import inference_pb2 as oip

READY = b"ready\n"
MAX_CONNECTIONS = 32
FIRST_TURNS_APART = 7919
"""Processes begin at different pictures and models, so that they do not ask in step."""
CONNECT_SECONDS = 10.0
DRAIN_LOOK_SECONDS = 0.05
ERROR_PAUSE_SECONDS = 0.01
"""A client of a closed loop waits this long after an error, so that a refusing server is not flooded."""
MAX_WAITING_BYTES = 512 * 1024 * 1024
"""Of requests that wait for answers in an open loop: memory is what ends first."""

SCHEDULE_FILE = Path("/proc/thread-self/schedstat")
"""Of Linux: nanoseconds that the thread ran, and that it waited for a core."""

Call = Callable[..., Any]


class Worker:
    """Sends requests from `start` (monotonic clock) on, and counts those planned after the warm-up."""

    def __init__(self, share: Share, calls: list[Call], start: float) -> None:
        self.tally = Tally()
        self._settings, self._requests, self._calls = share.settings, share.requests, calls
        self._turns = count(share.number * FIRST_TURNS_APART)
        self._random = random.Random(f"{share.settings.seed} {share.number}")
        self._start = start
        self._begin = start + share.settings.warm_up_seconds
        self._end = self._begin + share.settings.seconds
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: list[BaseException] = []
        self._is_stopped = False
        self._wake: asyncio.Future[None] | None = None
        self._cpu_at_begin: float | None = None
        self._cpu_wait_at_begin = 0.0

    async def run(self) -> Tally:
        """Ask until the end, then wait for the last answers."""
        loop = asyncio.get_running_loop()
        loop.call_at(self._begin, self._measuring_begins)
        loop.call_at(self._end, self._measuring_ends)
        await self._pause_until(self._start)
        await (self._closed_loop() if self._settings.rate is None else self._open_loop(self._settings.rate))
        while self._tasks and not self._is_stopped:
            await asyncio.wait(self._tasks, timeout=DRAIN_LOOK_SECONDS)
        self.tally.unanswered = len(self._tasks)
        for task in tuple(self._tasks):
            task.cancel()
        if self._failed:
            raise self._failed[0]
        return self.tally

    def stop(self) -> None:
        """End now: what still waits is given up, and the measured time ends here."""
        self._end = min(self._end, time.monotonic())
        self._measuring_ends()
        self._is_stopped = True
        _wake_up(self._wake)

    async def _closed_loop(self) -> None:
        for number in range(self._settings.clients):
            self._begin_task(self._client(self._calls[number % len(self._calls)]))
        await self._pause_until(self._end)

    async def _client(self, call: Call) -> None:
        while (began := time.monotonic()) < self._end:
            if not await self._ask(call, began):
                await asyncio.sleep(ERROR_PAUSE_SECONDS)

    async def _open_loop(self, rate: float) -> None:
        most = min(self._settings.max_waiting, max(1, MAX_WAITING_BYTES // self._requests.largest_bytes))
        planned = self._start
        for turn in count():
            planned += self._random.expovariate(rate)
            await self._pause_until(min(planned, self._end))
            if planned >= self._end:
                return
            if len(self._tasks) < most:
                self._begin_task(self._planned(self._calls[turn % len(self._calls)], planned))
            elif planned >= self._begin:
                self.tally.unsent += 1

    async def _planned(self, call: Call, planned: float) -> None:
        if planned >= self._begin:
            self.tally.late_seconds.append(time.monotonic() - planned)
        await self._ask(call, planned)

    async def _ask(self, call: Call, planned: float) -> bool:
        """One request; returns whether it was answered."""
        model, request = self._requests.take(next(self._turns))
        sent = time.monotonic()
        try:
            answer = await call(request, timeout=self._settings.timeout_seconds)
        except aio.AioRpcError as exc:
            if planned >= self._begin:
                self._count_error(exc, time.monotonic() - sent)
            return False
        now = time.monotonic()
        if self._begin <= now < self._end:
            self.tally.answers_in_time += 1
        if planned >= self._begin:
            self.tally.latency_seconds.append(now - planned)
            self.tally.versions[model, oip.ModelInferResponse.FromString(answer).model_version] += 1
        return True

    def _count_error(self, error: aio.AioRpcError, seconds: float) -> None:
        status = error.code()
        if status is grpc.StatusCode.CANCELLED and seconds >= self._settings.timeout_seconds:
            # The server saw the deadline pass before our side did.
            status = grpc.StatusCode.DEADLINE_EXCEEDED
        self.tally.errors[status.name] += 1
        if status.name not in self.tally.error_samples:
            said = translated(
                status, "" if status is not error.code() else error.details() or "", self._settings.address
            )
            self.tally.error_samples[status.name] = str(said)

    def _begin_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._failed.append(failure)
            self.stop()

    async def _pause_until(self, moment: float) -> None:
        """Return at `moment`, or at a stop; at once if that has been."""
        left = moment - time.monotonic()
        if left > 0 and not self._is_stopped:
            loop = asyncio.get_running_loop()
            self._wake = loop.create_future()
            loop.call_later(left, _wake_up, self._wake)
            await self._wake

    def _measuring_begins(self) -> None:
        self._cpu_at_begin, self._cpu_wait_at_begin = time.process_time(), waited_for_cpu_seconds()

    def _measuring_ends(self) -> None:
        if self._cpu_at_begin is not None and not self.tally.measured_seconds:
            self.tally.cpu_seconds = time.process_time() - self._cpu_at_begin
            self.tally.cpu_wait_seconds = waited_for_cpu_seconds() - self._cpu_wait_at_begin
            self.tally.measured_seconds = self._end - self._begin


def waited_for_cpu_seconds() -> float:
    """How long this thread has wanted to run while all cores were taken; 0 where that is not told."""
    try:
        return int(SCHEDULE_FILE.read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def _wake_up(sleeper: asyncio.Future[None] | None) -> None:
    if sleeper is not None and not sleeper.done():
        sleeper.set_result(None)


async def work(share: Share, orders: BinaryIO, out: BinaryIO) -> Tally:
    """Connect, say READY, and ask from the moment that comes next on `orders` to the end or until it ends."""
    settings = share.settings
    n_connections = min(MAX_CONNECTIONS, settings.clients if settings.rate is None else MAX_CONNECTIONS)
    # Without pools of their own, all channels to one address would share one connection.
    options = [*channel_options(settings.address), ("grpc.use_local_subchannel_pool", 1)]
    channels = [aio.insecure_channel(settings.address, options=options) for _ in range(n_connections)]
    calls: list[Call] = [
        channel.unary_unary(OIP + "ModelInfer", request_serializer=None, response_deserializer=None)
        for channel in channels
    ]
    with contextlib.suppress(TimeoutError):  # the requests will say what is wrong
        async with asyncio.timeout(CONNECT_SECONDS):
            await asyncio.gather(*(channel.channel_ready() for channel in channels))
    out.write(READY)
    out.flush()
    worker = Worker(share, calls, pickle.load(orders))
    loop = asyncio.get_running_loop()
    threading.Thread(target=_stop_at_end, args=(orders.fileno(), loop, worker), daemon=True).start()
    try:
        return await worker.run()
    finally:
        await asyncio.gather(*(channel.close(None) for channel in channels))


def _stop_at_end(orders: int, loop: asyncio.AbstractEventLoop, worker: Worker) -> None:
    # Not through the buffered file: Python could not end while a thread waits inside it.
    while os.read(orders, 1):
        pass
    with contextlib.suppress(RuntimeError):  # the loop has ended by itself
        loop.call_soon_threadsafe(worker.stop)


def main() -> None:
    share = pickle.load(sys.stdin.buffer)
    # select() waits in microseconds; epoll in whole milliseconds, by which an open loop would be late.
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        tally = runner.run(work(share, sys.stdin.buffer, sys.stdout.buffer))
    pickle.dump(tally, sys.stdout.buffer)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
