"""A load generator for any server of the Open Inference Protocol: settings and requests in, figures out.

    requests = prepare("127.0.0.1:8001", Question(("flowers",)))
    result = measure(LoadSettings("127.0.0.1:8001", clients=32, seconds=10), requests)
    print(result.images_per_second, result.latency_ms.p99)

Closed loop: each client sends its next request when it has its answer. Open loop (`rate`): requests are sent
at their planned times whatever the answers do, and latency counts from the planned time, so a server that
stalls does not hide the requests that its stall delayed.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import IO

from tlserve.client.load_report import LoadResult, LoadSettings, Tally, summarised
from tlserve.client.load_requests import Question, Requests, Share, prepare
from tlserve.core.errors import OperatorError

__all__ = ["LoadResult", "LoadSettings", "Question", "Requests", "measure", "prepare"]

START_IN_SECONDS = 0.02
"""From the word to all processes until they start, so that they start together."""
SAME_INTERRUPT_SECONDS = 1.0


def measure(settings: LoadSettings, requests: Requests) -> LoadResult:
    """Load the server and wait for the last answers; on KeyboardInterrupt the result of what was measured.

    Errors of requests are in the result. Raises OperatorError when a process of the generator fails.
    """
    with ExitStack() as stack:
        workers = [stack.enter_context(_worker(share)) for share in _shares(settings, requests)]
        readers = stack.enter_context(ThreadPoolExecutor(len(workers)))
        for worker in workers:
            worker.wait_until_ready()
        start = time.monotonic() + START_IN_SECONDS
        for worker in workers:
            worker.send(start)
        tallies = [readers.submit(worker.tally) for worker in workers]
        interrupted = _wait(tallies, workers)
        return summarised(
            settings, [tally.result() for tally in tallies], batch=requests.batch, interrupted=interrupted
        )


def _wait(tallies: Sequence[Future[Tally]], workers: Sequence[_Worker]) -> bool:
    """Until all have handed over what they counted; returns whether that was before their time."""
    stopped_at: float | None = None
    while True:
        try:
            wait(tallies)
            return stopped_at is not None
        except KeyboardInterrupt:
            # One Ctrl-C may come as two signals, from the terminal and from a program around this one.
            if stopped_at is not None and time.monotonic() - stopped_at > SAME_INTERRUPT_SECONDS:
                raise
            stopped_at = stopped_at or time.monotonic()
            for worker in workers:
                worker.stop()


def _shares(settings: LoadSettings, requests: Requests) -> Iterator[Share]:
    for number in range(settings.processes):
        clients, rest = divmod(settings.clients, settings.processes)
        mine = replace(
            settings,
            processes=1,
            max_waiting=max(1, settings.max_waiting // settings.processes),
            clients=max(1, clients + (number < rest)),
            # Poisson streams that are merged are one Poisson stream of their rates' sum.
            rate=None if settings.rate is None else settings.rate / settings.processes,
        )
        yield Share(number, mine, requests)


class _Worker:
    """One process of the generator, from here."""

    def __init__(self, process: subprocess.Popen[bytes], orders: IO[bytes], answers: IO[bytes]) -> None:
        self._process, self._orders, self._answers = process, orders, answers

    def wait_until_ready(self) -> None:
        if not self._answers.readline():
            raise self._failed()

    def send(self, order: Share | float) -> None:
        """Its share at first, then the moment to start."""
        with suppress(BrokenPipeError):  # it has failed, which is said where an answer is missing
            pickle.dump(order, self._orders)
            self._orders.flush()

    def tally(self) -> Tally:
        """What it counted; blocks until it has ended."""
        try:
            tally = pickle.load(self._answers)
        except EOFError as exc:
            raise self._failed() from exc
        if not isinstance(tally, Tally):
            raise self._failed()
        return tally

    def stop(self) -> None:
        """End early: the end of its orders is the word for it. Twice is harmless."""
        with suppress(BrokenPipeError):
            self._orders.close()

    def _failed(self) -> OperatorError:
        code = self._process.wait()
        return OperatorError(f"a process of the load generator ended with {code}; what it said is above")


@contextmanager
def _worker(share: Share) -> Iterator[_Worker]:
    """A process that has its share; killed on the way out if it has not ended by then."""
    command = [sys.executable, "-m", "tlserve.client.load_worker"]
    # In a session of its own a Ctrl-C on the terminal is ours to pass on, not its end.
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        if process.stdin is None or process.stdout is None:
            raise OperatorError("a process of the load generator has no pipes")
        worker = _Worker(process, process.stdin, process.stdout)
        try:
            worker.send(share)
            yield worker
        finally:
            worker.stop()
            process.kill()
