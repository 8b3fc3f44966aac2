"""Whole graphs, made by the trainer: a Triton repository that comes to equal LIVE, and files for clients."""

from __future__ import annotations

import asyncio
import contextlib
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
REST_SECONDS, LONGEST_REST_SECONDS = 3.0, 30.0
"""Between two exports of one model, doubled while LIVE goes on changing: twenty swaps a second are not worth
twenty graphs a second, nor one every three."""

Wanted = tuple[int, tuple[int, ...]]
"""The live version, and the pinned ones."""


class Exporter:
    """Hands the trainer export jobs. state: LIVE of a model, as it is now."""

    def __init__(
        self,
        layout: StateLayout,
        scheduler: Scheduler,
        state: Callable[[str], LiveState],
        *,
        rest_seconds: float = REST_SECONDS,
    ) -> None:
        self._layout, self._scheduler, self._state = layout, scheduler, state
        self._rest_seconds = rest_seconds
        self._following: dict[str, asyncio.Event] = {}
        """The models whose folder is being brought in line, each with what says that LIVE changed again."""

    async def follow_live(self, model: str) -> None:
        """Bring the model's Triton folder in line with LIVE, and keep it so while LIVE goes on changing.

        Where versions go live one after the other, those that were live for a moment only are left out.
        """
        if model in self._following:
            self._following[model].set()
            return
        changed = self._following[model] = asyncio.Event()
        try:
            exported, rest = None, self._rest_seconds
            while (wanted := _exported_of(self._state(model))) is not None and wanted != exported:
                changed.clear()
                exported = wanted if await self._export(model, wanted, changed) else None
                await asyncio.sleep(rest)
                rest = min(2 * rest, LONGEST_REST_SECONDS)
        finally:
            del self._following[model]

    async def _export(self, model: str, wanted: Wanted, changed: asyncio.Event) -> bool:
        """Try until it is done, or LIVE says something else; returns whether it is done."""
        live, pinned = wanted
        for pause in itertools.chain(RETRY_SECONDS, itertools.repeat(RETRY_SECONDS[-1])):
            try:
                done = await self._scheduler.errand(ExportJob(uuid.uuid4().hex, model, live, pinned))
            except TlserveError as exc:
                log.warning("model %r: version %d was not exported: %s", model, live, exc)
            else:
                assert isinstance(done, Exported)
                if done.error is None:
                    return True
                log.error("model %r: version %d was not exported: %s", model, live, done.error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), pause)
            changed.clear()  # or no later pause would last
            if _exported_of(self._state(model)) != wanted:
                break
        return False

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


def _exported_of(state: LiveState) -> Wanted | None:
    """What of LIVE the Triton folder shows; None before the first version."""
    return None if state.live is None else (state.live, state.pinned)
