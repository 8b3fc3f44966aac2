"""The trainer's end of the pipes: events out, jobs in, and cancellation that reaches a running job."""

from __future__ import annotations

import os
import queue
import sys
import threading
from typing import BinaryIO

from tlserve.core.messages import Cancel, Event, Job, decode, encode


class Channel:
    """Messages over two byte streams. `send` may be called from any thread."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source, self._sink = source, sink
        self._writing = threading.Lock()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._cancelled: set[str] = set()

    @classmethod
    def over_standard_streams(cls) -> Channel:
        """Take over stdin and stdout; whatever else prints to stdout lands on stderr from now on."""
        sink = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        return cls(sys.stdin.buffer, sink)

    def send(self, event: Event) -> None:
        with self._writing:
            self._sink.write(encode(event))
            self._sink.flush()

    def listen(self) -> None:
        """Read on a thread. When the other end closes, the daemon is gone or wants us gone: exit at once."""
        threading.Thread(target=self._read, name="jobs", daemon=True).start()

    def has_job(self) -> bool:
        """Whether `next_job` would return at once."""
        return not self._jobs.empty()

    def next_job(self) -> Job:
        """Wait for a job."""
        job = self._jobs.get()
        if job is None:
            raise EOFError
        return job

    def cancelled(self, job_id: str) -> bool:
        return job_id in self._cancelled

    def _read(self) -> None:
        for line in self._source:
            message = decode(line)
            if isinstance(message, Cancel):
                self._cancelled.add(message.job_id)
            else:
                self._jobs.put(message)  # type: ignore[arg-type]
        # A pass may be deep in a fit or a backbone run; every write is atomic, so leaving now is safe.
        os._exit(0)
