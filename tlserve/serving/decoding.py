"""From a request's bytes or pixels to images at the backbone's size, on threads, never on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from tlserve.core.errors import BadImage, DeadlinePassed, Draining
from tlserve.core.types import Pixels
from tlserve.images import ImageDecoder
from tlserve.plugin_api import ImageSpec
from tlserve.serving.outbox import Outbox
from tlserve.serving.queue import Images

T = TypeVar("T")


class DecodePool:
    """Threads that decode and resize. A big request takes turns with the others."""

    def __init__(self, workers: int, *, max_pixels: int) -> None:
        self._workers, self._max_pixels = workers, max_pixels
        self._closed = False
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="tlserve-decode")
        self._outbox: Outbox[_Done] | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """On the loop that will ask."""
        self._outbox = Outbox(loop, _settle)

    async def prepare(
        self, images: Sequence[bytes] | Pixels, spec: ImageSpec, deadline: float | None
    ) -> Images:
        """The request's images at the spec's size; pixels that already have it come back as they are.

        Raises BadImage (naming which one), or DeadlinePassed for an image whose turn came too late.
        """
        decoder = ImageDecoder(spec, self._max_pixels)
        if isinstance(images, np.ndarray):
            if images.shape[1:3] == (spec.height, spec.width):
                return images
            return await self._run(lambda: decoder.fit(images), deadline)
        if len(images) == 1:
            return [await self._run(lambda: decoder.decode(images[0]), deadline)]
        return await self._decode_in_turns(images, decoder, deadline)

    async def _decode_in_turns(
        self, images: Sequence[bytes], decoder: ImageDecoder, deadline: float | None
    ) -> list[npt.NDArray[np.uint8]]:
        decoded: list[npt.NDArray[np.uint8]] = []
        for first in range(0, len(images), 2 * self._workers):
            turn = images[first : first + 2 * self._workers]
            jobs = [
                asyncio.ensure_future(self._run(partial(_decode, decoder, index, data), deadline))
                for index, data in enumerate(turn, first)
            ]
            try:
                decoded += await asyncio.gather(*jobs)
            finally:
                for job in jobs:
                    job.cancel()
        return decoded

    async def close(self) -> None:
        """Wait until the images being decoded are done; requests with waiting ones get Draining."""
        self._closed = True
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
        if self._outbox is not None:
            self._outbox.close()

    async def _run(self, work: Callable[[], T], deadline: float | None) -> T:
        outbox = self._outbox
        if self._closed or outbox is None:
            raise Draining
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[T] = loop.create_future()

        def unless_too_late() -> None:
            try:
                if deadline is not None and loop.time() >= deadline:
                    raise DeadlinePassed("the deadline passed before the image was decoded")
                done = _Done(answered, work(), None)
            except Exception as exc:
                done = _Done(answered, None, exc)
            outbox.post(done)
            outbox.ring()

        job = self._threads.submit(unless_too_late)
        # A job that no thread will take any more leaves nobody waiting.
        job.add_done_callback(lambda job: job.cancelled() and loop.call_soon_threadsafe(answered.cancel))
        try:
            return await answered
        except asyncio.CancelledError as exc:
            if self._closed:
                raise Draining from exc
            raise
        finally:
            job.cancel()


@dataclass(frozen=True, slots=True)
class _Done:
    """What a thread made of a job, or why it could not."""

    answered: asyncio.Future[Any]
    result: Any
    error: Exception | None


def _settle(done: _Done) -> None:
    """On the loop."""
    if done.answered.done():
        return
    if done.error is not None:
        done.answered.set_exception(done.error)
    else:
        done.answered.set_result(done.result)


def _decode(decoder: ImageDecoder, index: int, data: bytes) -> npt.NDArray[np.uint8]:
    try:
        return decoder.decode(data)
    except BadImage as exc:
        raise BadImage(f"image {index}: {exc}") from exc
