"""Whole graphs, made by the trainer: a Triton repository that comes to equal LIVE, and files for clients."""

from __future__ import annotations

import asyncio
import itertools
import logging
import uuid
from collections.abc import Callable
from pathlib import Path

from tlserve.core.errors import CorruptState, TlserveError
from tlserve.core.messages import Exported, ExportFileJob, ExportJob
from tlserve.release import LiveState
from tlserve.release.layout import StateLayout
from tlserve.schedule import Scheduler

log = logging.getLogger("tlserve.exports")

RETRY_SECONDS = (1.0, 5.0, 30.0, 300.0)


class Exporter:
    """Hands the trainer export jobs. state: LIVE of a model, as it is now."""

    def __init__(self, layout: StateLayout, scheduler: Scheduler, state: Callable[[str], LiveState]) -> None:
        self._layout, self._scheduler, self._state = layout, scheduler, state

    async def follow_live(self, model: str, live: int, pinned: tuple[int, ...]) -> None:
        """Bring the model's Triton folder in line; try until it is done, or LIVE says something else."""
        for pause in itertools.chain(RETRY_SECONDS, itertools.repeat(RETRY_SECONDS[-1])):
            state = self._state(model)
            if (state.live, state.pinned) != (live, pinned):
                return
            try:
                done = await self._scheduler.errand(ExportJob(uuid.uuid4().hex, model, live, pinned))
            except TlserveError as exc:
                log.warning("model %r: version %d was not exported: %s", model, live, exc)
            else:
                assert isinstance(done, Exported)
                if done.error is None:
                    return
                log.error("model %r: version %d was not exported: %s", model, live, done.error)
            await asyncio.sleep(pause)

    async def graph(self, model: str, version: int) -> bytes:
        """One version as an ONNX file. Raises CorruptState where its parts are not there any more."""
        ready = self._layout.triton / model / str(version) / "model.onnx"
        if ready.is_file():
            return await asyncio.to_thread(ready.read_bytes)
        out = self._layout.exports / f"{uuid.uuid4().hex}.onnx"
        await asyncio.to_thread(out.parent.mkdir, parents=True, exist_ok=True)
        job = ExportFileJob(uuid.uuid4().hex, model, version, str(out))
        # Whoever asked may give up; the file goes all the same, when the trainer is done with it.
        return await asyncio.shield(asyncio.ensure_future(self._made(job, out)))

    async def _made(self, job: ExportFileJob, out: Path) -> bytes:
        try:
            done = await self._scheduler.errand(job)
            assert isinstance(done, Exported)
            if done.error:
                raise CorruptState(
                    f"model {job.model!r} version {job.version} cannot be exported: {done.error}"
                )
            return await asyncio.to_thread(out.read_bytes)
        finally:
            await asyncio.to_thread(out.unlink, missing_ok=True)
