"""Keeps the trainer process alive and talks to it: one job at a time, typed messages over its pipes.

The trainer may die at any moment. A job that was running then fails with TrainerFailed, the process is
started again for the next job, and whoever gave the job decides about trying again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence

from tlserve.core.errors import TrainerFailed
from tlserve.core.messages import (
    BackboneDescribed,
    BackbonesChecked,
    BackbonesListed,
    Cancel,
    Compared,
    Event,
    Exported,
    Job,
    PassDone,
    ReportWritten,
    TrainerReady,
    Tuned,
    decode,
    encode,
)

log = logging.getLogger("tlserve.trainer")

LONGEST_LINE_BYTES = 64 * 2**20
STDERR_LINES_KEPT = 12

LastEvent = (
    PassDone
    | Exported
    | ReportWritten
    | Compared
    | Tuned
    | BackbonesListed
    | BackbonesChecked
    | BackboneDescribed
)
"""What ends a job."""


class TrainerKeeper:
    """Owns the trainer process.

    command: argv that starts a trainer speaking `core.messages` on its standard input and output.
    on_event: called in the event loop for every event, the ones that end a job included.
    """

    def __init__(self, command: Sequence[str], on_event: Callable[[Event], None]) -> None:
        self._command = tuple(command)
        self._on_event = on_event
        self._one_job = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._readers: list[asyncio.Task[None]] = []
        self._running: tuple[Job, asyncio.Future[LastEvent]] | None = None
        self._last_words: deque[str] = deque(maxlen=STDERR_LINES_KEPT)
        self._ready = asyncio.Event()
        self._unheard: set[str] = set()
        """Jobs that were cancelled while no trainer was up to hear it."""
        self._stopping = False
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """Process id while the trainer is up."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    @property
    def job(self) -> Job | None:
        """What it works on now."""
        return self._running[0] if self._running is not None else None

    async def start(self) -> None:
        """Start the process if it is not up; returns when it is ready for work.

        Raises TrainerFailed with its last words when it cannot start.
        """
        if self.pid is not None:
            return
        if self._process is not None:
            self.restarts += 1
        self._ready.clear()
        self._last_words.clear()
        self._process = process = await self._spawn()
        self._readers = [
            asyncio.create_task(self._read_events(process), name="trainer events"),
            asyncio.create_task(self._read_log(process), name="trainer log"),
        ]
        ready = asyncio.create_task(self._ready.wait())
        died = asyncio.create_task(process.wait())
        try:
            await asyncio.wait({ready, died}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
            died.cancel()
        if not self._ready.is_set():
            await self._readers[1]
            raise TrainerFailed(f"the trainer did not start: {self._obituary(process)}")

    async def _spawn(self) -> asyncio.subprocess.Process:
        try:
            return await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=LONGEST_LINE_BYTES,
                # Its own group: Ctrl-C in a terminal reaches the daemon, which stops the trainer in order.
                # Not its own session: Linux first shares the cores between sessions (autogroups), so that
                # its niceness would mean nothing to the daemon's threads.
                process_group=0,
            )
        except OSError as exc:
            raise TrainerFailed(f"the trainer cannot be started: {exc.strerror}") from exc

    async def run(self, job: Job) -> LastEvent:
        """Give the trainer one job and wait for its end. Raises TrainerFailed when the process dies."""
        async with self._one_job:
            if self._stopping:
                raise TrainerFailed("the trainer is being stopped")
            await self.start()
            done: asyncio.Future[LastEvent] = asyncio.get_running_loop().create_future()
            self._running = (job, done)
            try:
                await self._send(encode(job))
                if job.job_id in self._unheard:
                    await self._send(encode(Cancel(job.job_id)))
                return await done
            except asyncio.CancelledError:
                with contextlib.suppress(OSError):
                    await self._send(encode(Cancel(job.job_id)))
                raise
            finally:
                self._running = None
                self._unheard.clear()

    async def cancel(self, job_id: str) -> None:
        """Ask for the end of a job that runs, or is about to; `run` then returns what it ended with."""
        if self.pid is None:
            self._unheard.add(job_id)
        else:
            await self._send(encode(Cancel(job_id)))

    async def stop(self, grace_seconds: float = 5.0) -> None:
        """End the trainer: by closing its input, then by force. What it was doing is redone later."""
        self._stopping = True
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            assert process.stdin is not None
            process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), grace_seconds)
            except TimeoutError:
                process.kill()
                await process.wait()
        await asyncio.gather(*self._readers, return_exceptions=True)

    async def _send(self, line: bytes) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line)
            await self._process.stdin.drain()
        except OSError:
            # The reader notices the death and fails the job with the reason.
            log.debug("the trainer's input is closed")

    async def _read_events(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            try:
                event = decode(line)
            except ValueError as exc:
                log.warning("the trainer said something unexpected: %s", exc)
                continue
            self._take(event)  # type: ignore[arg-type]
        await process.wait()
        with contextlib.suppress(asyncio.CancelledError):
            await self._readers[1]
        if self._running and not self._running[1].done():
            self._running[1].set_exception(TrainerFailed(f"the trainer died: {self._obituary(process)}"))

    def _take(self, event: Event) -> None:
        if isinstance(event, TrainerReady):
            self._ready.set()
        try:
            self._on_event(event)
        except Exception:
            # Whoever listens must not be able to cut the line to the trainer.
            log.exception("the event %s was not taken in", type(event).__name__)
        if isinstance(event, LastEvent) and self._running:
            job, done = self._running
            if job.job_id == event.job_id and not done.done():
                done.set_result(event)

    async def _read_log(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        while line := await process.stderr.readline():
            text = line.decode(errors="replace").rstrip()
            self._last_words.append(text)
            log.info("%s", text)

    def _obituary(self, process: asyncio.subprocess.Process) -> str:
        code = process.returncode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        words = " | ".join(self._last_words)
        return f"{how}{'; its last words: ' + words if words else ''}"
