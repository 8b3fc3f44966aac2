"""From versions to builds in memory: known at once, loaded on demand, held while a lease lasts.

Facts (spec, heads) stay for every loaded version; only sessions come and go. A lease holds its build, and
what is held never leaves. A swap loads beside the limits, so that it never waits for the build it replaces.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tlserve.core.errors import BackboneCold, Draining, TlserveError, Unavailable
from tlserve.runtime import read_build_spec
from tlserve.serving.background import Background, in_own_thread
from tlserve.serving.builds import Build, Resident
from tlserve.serving.limits import Limits, Rests
from tlserve.serving.memory import ResidentBuilds
from tlserve.serving.opening import Opener, yield_to_answers
from tlserve.serving.pace import Pace

log = logging.getLogger("tlserve.serving")

WIDE_AFTER_BATCHES = frozenset({8, 64, 512, 4096})
"""Lone batches after which a wide session is tried: what is hardly used costs no second copy, and a
comparison that went against it on a busy machine is not the last word."""

FAIR_SECONDS = 1.0
"""A load waits so long for a place to become free by itself. Then the least recently leased build takes no
new leases before it has left: requests that overlap without end would keep all others out for ever."""


@dataclass(slots=True)
class ShelfCounts:
    """What happened since the start."""

    loads: int = 0
    load_failures: int = 0
    cold_waits: int = 0
    """Leases that had to wait for a build."""


@dataclass(eq=False, slots=True)
class _Loading:
    """A build on its way into memory, and who waits for it."""

    build: Build
    beside: bool
    """Whether it need not wait for room."""
    began: float = field(default_factory=time.monotonic)
    waiting: dict[asyncio.Future[None], bool] = field(default_factory=dict)
    """Each with whether the limits do not count for whoever waits there."""
    has_room: bool = False

    @property
    def is_wanted_beside(self) -> bool:
        """Whether somebody still waits who will end that with `settle`."""
        return any(beside and not granted.done() for granted, beside in self.waiting.items())


class BuildShelf:
    """The builds that loaded versions stand on. On the event loop only; threads open and close them."""

    def __init__(self, folder: Path, opener: Opener, limits: Limits, *, yields: Callable[[], bool]) -> None:
        """folder: holds a folder for each build. yields: whether a load should give way to answers now."""
        self._folder, self._opener, self._yields = folder, opener, yields
        self._builds: dict[str, Build] = {}
        self.resident = ResidentBuilds(opener, limits)
        self._loading: dict[Build, _Loading] = {}
        self._yielding: set[Build] = set()
        """In memory, and to leave as soon as the leases of now have ended."""
        self._rests = Rests()
        self._turn = asyncio.Lock()
        """One load after the other: their peaks of memory do not add up."""
        self._changed = asyncio.Event()
        self._working = Background()
        self._closed = False
        self.counts = ShelfCounts()

    # -- facts

    async def join(self, digest: str) -> Build:
        """The build, known but perhaps cold, for one more version; `leave` ends that. Raises CorruptState."""
        if digest not in self._builds:
            folder = self._folder / digest
            spec = await asyncio.to_thread(read_build_spec, folder)
            if digest not in self._builds:
                self._builds[digest] = Build(digest, spec, folder, self._freed)
        build = self._builds[digest]
        build.versions += 1
        return build

    def leave(self, build: Build) -> None:
        """One version less stands on it; the last one takes it out of memory."""
        build.versions -= 1
        self._consider(build)

    def lives(self, build: Build, change: int) -> None:
        """So many more (or fewer) live versions stand on it."""
        build.live_versions += change
        if change > 0:
            self.resident.used(build)
        self._consider(build)

    def failing(self, build: Build) -> bool:
        """Whether its last load failed, and the next try is not due yet."""
        return self._rests.resting(build.digest)

    def has_room(self, build: Build) -> bool:
        """Whether it is in memory, or could be without anything else leaving."""
        return build.resident is not None or self._obstacle(build) is None

    # -- holds

    async def hold(self, build: Build, patience_seconds: float) -> None:
        """Keep it in memory until `Build.release`; a cold one is loaded first.

        Raises BackboneCold when that takes longer than `patience_seconds` (the load goes on), what the
        load raises, Unavailable while a failed one rests, or Draining.
        """
        if build.resident is None or build in self._yielding:
            self._rests.check(build.digest)
            self.counts.cold_waits += 1
            try:
                async with asyncio.timeout(patience_seconds):
                    await self._yielded(build)
                    await self._granted(build, beside=False)
            except TimeoutError:
                raise BackboneCold(self._why_cold(build)) from None
        else:
            build.hold()
        self.resident.used(build)

    async def hold_beside(self, build: Build) -> None:
        """As `hold`, without patience, without regard to the limits, and without a rest after a failure.

        Ends with `settle`.
        """
        if build.resident is None:
            await self._granted(build, beside=True)
        else:
            build.hold()
        self.resident.used(build)

    def settle(self, build: Build) -> None:
        """End a hold of `hold_beside`; from now on the build counts like any other."""
        self.resident.settle(build)
        build.release()

    def ran_alone(self, build: Build) -> None:
        """A held build ran a batch that had the machine to itself: after some, a wide session is tried."""
        resident = build.resident
        if resident is None:
            return
        resident.lone_batches += 1
        due = resident.wide is None and resident.lone_batches in WIDE_AFTER_BATCHES
        if due and not self._closed and self._opener.may_widen(build.folder):
            build.hold()
            self._working.start(self._widen(build, resident))

    async def close(self) -> None:
        """Close whatever is open; nobody may use a build any more."""
        self._closed = True
        self._changed.set()
        await self._working.done()
        await self.resident.close()

    # -- loading

    async def _granted(self, build: Build, *, beside: bool) -> None:
        """Wait for a load, which holds the build for everybody who waits when it is done."""
        if self._closed:
            raise Draining
        if build.resident is not None:
            build.hold()
            return
        loading = self._loading.get(build)
        if loading is None:
            loading = self._loading[build] = _Loading(build, beside)
            self._working.start(self._load(loading))
        elif beside:
            loading.beside = True
            self._changed.set()
        granted = asyncio.get_running_loop().create_future()
        loading.waiting[granted] = beside
        try:
            await granted
        except BaseException:
            if granted.done() and not granted.cancelled() and granted.exception() is None:
                if beside:
                    self.settle(build)
                else:
                    build.release()
            raise

    async def _load(self, loading: _Loading) -> None:
        build, error = loading.build, None
        try:
            await self._wait_for_room(loading)
            async with self._turn:
                resident, pace = await self._opened(build)
        except TlserveError as exc:
            error = exc
        except Exception as exc:
            log.exception("backbone %r: unexpected trouble while it was loaded", build.spec.name)
            error = Unavailable(f"the backbone {build.spec.name!r} could not be loaded: {exc}")
        else:
            self.resident.add(build, resident, pace, beside=loading.is_wanted_beside)
            self._rests.loaded(build.digest)
            self.counts.loads += 1
        del self._loading[build]
        if error is not None and not isinstance(error, (Draining, BackboneCold)):
            self.counts.load_failures += 1
            self._rests.failed(build.digest, str(error))
        _settle(loading, error)
        self._consider(build)

    async def _yielded(self, build: Build) -> None:
        """Wait while it has to leave, or to stay after all."""
        while build in self._yielding:
            self._changed.clear()
            await self._changed.wait()

    async def _wait_for_room(self, loading: _Loading) -> None:
        build, leaving = loading.build, set[Build]()
        try:
            while not loading.beside and self._obstacle(build) is not None:
                if self._closed:
                    raise Draining
                if build.versions == 0:
                    raise BackboneCold(f"the backbone {build.spec.name!r} is not served any more")
                if not self.resident.make_way():
                    await self._ask_for_room(loading, leaving)
        finally:
            self._yielding -= leaving
            self._changed.set()
        loading.has_room = True
        await self.resident.gone()  # or both would be in memory for a moment

    async def _ask_for_room(self, loading: _Loading, leaving: set[Build]) -> None:
        """Wait until something changed; when that takes long, one more of those in memory has to leave."""
        fair_in = loading.began + FAIR_SECONDS - time.monotonic()
        if fair_in <= 0 and not any(one.resident is not None for one in leaving):
            asked = self.resident.least_recent(without=self._yielding)
            if asked is not None:
                leaving.add(asked)
                self._yielding.add(asked)
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(fair_in if fair_in > 0 else None):
                await self._changed.wait()

    async def _opened(self, build: Build) -> tuple[Resident, Pace]:
        if self._closed:
            raise Draining

        def work() -> tuple[Resident, Pace]:
            if self._yields():
                yield_to_answers()
            return self._opener.open(build.folder)

        return await in_own_thread(work)

    def _why_cold(self, build: Build) -> str:
        if build in self._yielding:
            return f"the backbone {build.spec.name!r} makes room for one that waited for long; try again"
        loading = self._loading.get(build)
        obstacle = self._obstacle(build)
        if loading is not None and not loading.has_room and obstacle is not None:
            n = len(self.resident)
            which = f"all {n} backbones" if n > 1 else "the one backbone"
            verb = "are" if n > 1 else "is"
            return f"{which} that {obstacle} allows {verb} answering requests; try again"
        seconds = 0.0 if loading is None else time.monotonic() - loading.began
        return f"the backbone {build.spec.name!r} is being loaded ({seconds:.1f} s so far); try again"

    async def _widen(self, build: Build, resident: Resident) -> None:
        """On a thread that does not yield: the session's own threads are born with its priority."""
        try:
            async with self._turn:
                if not self.resident.room_to_widen(build):
                    return
                narrow = resident.sessions[0]
                wide = await in_own_thread(lambda: self._opener.widen(build.folder, narrow))
            if wide is not None:
                resident.wide = wide
                resident.nbytes += wide.nbytes
                build.nbytes = resident.nbytes
        except Exception as exc:
            log.warning("backbone %r: no session on all cores: %s", build.spec.name, exc)
        finally:
            build.release()

    # -- leaving

    def _obstacle(self, build: Build) -> str | None:
        return self.resident.obstacle(
            build, [loading.build for loading in self._loading.values() if loading.has_room]
        )

    def _freed(self, build: Build) -> None:
        """The last hold on it ended. Who waits for room comes before whoever might lease it next."""
        may_leave = build.resident is not None and not self.resident.outlasts(build)
        stuck = (one for one in self._loading.values() if not one.has_room and not one.beside)
        if may_leave and any(self._obstacle(one.build) is not None for one in stuck):
            self.resident.evict(build)
        self._consider(build)

    def _consider(self, build: Build) -> None:
        self.resident.reconsider(build)
        gone = build.versions == 0 and build.resident is None and build not in self._loading
        if gone and self._builds.get(build.digest) is build:
            del self._builds[build.digest]
        self._changed.set()


def _settle(loading: _Loading, error: TlserveError | None) -> None:
    """Tell everybody who still waits; on success the build is held for each of them."""
    for granted in loading.waiting:
        if granted.done():
            continue
        if error is not None:
            granted.set_exception(error)
        else:
            loading.build.hold()
            granted.set_result(None)
