"""What goes live, and how: the only writer of LIVE. One change at a time for each model.

The order of a swap: load and warm the new version, make LIVE durable, then swap the reference. Whatever
fails on the way leaves the old version answering.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Coroutine
from typing import Any, TypeVar

from tlserve.app.board import Board
from tlserve.core.errors import BadInput, NotReady, Superseded, TlserveError, UnknownVersion
from tlserve.core.head import Head
from tlserve.core.lifecycle import Promotion
from tlserve.observe import Metrics
from tlserve.release import (
    LiveState,
    Manifest,
    VersionStore,
    pinned,
    promoted,
    rolled_back,
    timeline_of,
    with_backbone,
    with_promotion,
    without_retired,
)
from tlserve.serving import InferencePool, ServableVersion, ServedVersion

log = logging.getLogger("tlserve.releases")

T = TypeVar("T")


class Releases:
    """The live versions of all models, on disk and in the pool.

    export: called with the model after every change of what should be in the Triton repository; must
    return at once.
    promotion: who decides for a model now. keep_versions: how many promoted versions of a model are kept.
    """

    def __init__(
        self,
        store: VersionStore,
        pool: InferencePool,
        board: Board,
        metrics: Metrics,
        *,
        export: Callable[[str], None],
        promotion: Callable[[str], Promotion],
        keep_versions: Callable[[str], int],
    ) -> None:
        self._store, self._pool, self._board, self._metrics = store, pool, board, metrics
        self._export, self._promotion, self._keep_versions = export, promotion, keep_versions
        self._changing: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._states: dict[str, LiveState] = {}
        self._manifests: dict[str, Manifest] = {}
        """Of the version that answers, by model: what listings show without touching the disk."""
        self.failures: dict[str, str] = {}
        """Why a model's live version could not be loaded at start."""

    async def restore(self) -> None:
        """Serve what LIVE says, for every model on disk. What cannot be loaded is named; the rest goes on."""
        for model in await asyncio.to_thread(self._store.models):
            try:
                await self._restore(model)
            except TlserveError as exc:
                self.failures[model] = str(exc)
                log.error("model %r is not served: %s", model, exc)

    async def _restore(self, model: str) -> None:
        state = await asyncio.to_thread(self._store.live, model)
        self._states[model] = state
        if state.live is None:
            return
        await self._swap(model, state.live)
        self._export(model)

    async def heal(self, model: str) -> None:
        """Try again to serve what LIVE says, if that failed at start: a pass may have remade the build."""
        async with self._changing[model]:
            if model not in self.failures:
                return
            try:
                await self._restore(model)
            except TlserveError as exc:
                self.failures[model] = str(exc)
            else:
                self.failures.pop(model, None)
                self._board.said(model, "swap", f"version {self.state(model).live} could be loaded after all")

    def models(self) -> list[str]:
        """Models with a LIVE state, served or not."""
        return sorted(self._states)

    def keep(self, models: Collection[str]) -> None:
        """Stop serving what is not among `models`; requests under way finish."""
        for model in [m for m in self._states if m not in models]:
            log.info("model %r is not served any more: its folder and its state are gone", model)
            del self._states[model]
            self._manifests.pop(model, None)
            self._pool.forget(model)

    def state(self, model: str) -> LiveState:
        return self._states.get(model, LiveState())

    def live_manifest(self, model: str) -> Manifest | None:
        """Of the version that answers now."""
        manifest = self._manifests.get(model)
        return manifest if manifest is not None and manifest.version == self.state(model).live else None

    async def go_live(self, model: str, version: int, *, reason: str) -> LiveState:
        """Make `version` live. Raises UnknownVersion, CorruptState or NotLoaded; the old one stays then."""
        async with self._changing[model]:
            state, loaded, refines = await asyncio.to_thread(self._considered, model, version)
            new = promoted(state, version, time.time(), reason, refines=refines)
            return await self._commit(new, loaded, reason, None)

    async def go_live_as_judged(
        self,
        model: str,
        version: int,
        *,
        judged_against: int | None,
        reason: str,
        noticed_at: float | None,
        publishing_seconds: float | None = None,
    ) -> LiveState:
        """Make `version` live on the judge's word, if that still stands.

        noticed_at: Unix time of the change behind it. publishing_seconds: what writing the version took.
        Raises as `go_live`, and Superseded when another version went live since the judge compared, or a
        person took the decision over meanwhile.
        """
        async with self._changing[model]:
            state = await self._read(model)
            if state.live is not None and self._promotion(model) is not Promotion.AUTO:
                raise Superseded(model, version, f"it waits for: tlserve promote {model} {version}")
            if state.live != judged_against:
                raise Superseded(model, version, f"version {state.live} went live since it was judged")
            _, loaded, refines = await asyncio.to_thread(self._considered, model, version)
            now = time.time()
            seconds = None if noticed_at is None else max(0.0, now - noticed_at)
            new = promoted(
                state,
                version,
                now,
                reason,
                drop_to_live_seconds=seconds,
                publishing_seconds=None if seconds is None else publishing_seconds,
                refines=refines,
            )
            return await self._commit(new, loaded, reason, seconds)

    async def roll_back(self, model: str) -> LiveState:
        """Make the previous version live and promotion manual. Raises NotReady without a previous version."""
        async with self._changing[model]:
            state = await self._read(model)
            new = rolled_back(state, time.time())
            assert new.live is not None
            loaded = await self._load(model, new.live)
            return await self._commit(new, loaded, "rolled back; promotion is manual now", None)

    async def pin(self, model: str, version: int, *, pinned_: bool) -> LiveState:
        """Keep a version forever and in the Triton repository, or no longer."""
        async with self._changing[model]:
            state = await self._read(model)
            known = await self.numbers(model)
            if pinned_ and version not in known:
                raise UnknownVersion(model, str(version), known)
            new = pinned(state, version, pinned=pinned_)
            await self._write(model, new)
            if new.live is not None:
                self._export(model)
            return new

    async def set_promotion(self, model: str, promotion: Promotion | None) -> LiveState:
        async with self._changing[model]:
            new = with_promotion(await self._read(model), promotion)
            await self._write(model, new)
            return new

    async def set_backbone(self, model: str, backbone: str | None) -> LiveState:
        """Note what the model learns on from its next pass on; None: as the settings say."""
        async with self._changing[model]:
            new = with_backbone(await self._read(model), backbone)
            await self._write(model, new)
            return new

    async def number(self, model: str, version: str) -> int:
        """A version string as the number it names now: a decimal, `live`, `previous`, or empty (live)."""
        if version in ("", "live", "previous"):
            state = await self._read(model)
            number = state.previous if version == "previous" else state.live
            if number is None:
                raise NotReady(f"model {model!r} has no {version or 'live'} version")
            return number
        known = await self.numbers(model)
        if not version.isascii() or not version.isdecimal():
            raise BadInput(f"version {version!r} is neither a number nor live or previous")
        if int(version) not in known:
            raise UnknownVersion(model, version, known)
        return int(version)

    async def numbers(self, model: str) -> tuple[int, ...]:
        """The versions on disk, ascending."""
        return tuple(await asyncio.to_thread(self._store.versions, model))

    async def _read(self, model: str) -> LiveState:
        """LIVE as it is on disk, where a person may have put things right by hand; empty without one."""
        self._states[model] = await asyncio.to_thread(self._store.live, model)
        return self._states[model]

    def _considered(self, model: str, version: int) -> tuple[LiveState, Stored, bool]:
        """On a thread, all at once: under load each way there and back waits its turn.

        LIVE as it is on disk, the version, and whether it refines the fast version that is live.
        """
        state, loaded = self._store.live(model), stored(self._store, model, version)
        live = self._manifests.get(model)
        refines = live is not None and live.version == state.live and live.is_refined_by(loaded[0])
        return state, loaded, refines

    async def _load(self, model: str, version: int) -> Stored:
        return await asyncio.to_thread(stored, self._store, model, version)

    async def _swap(self, model: str, version: int) -> None:
        manifest, head = await self._load(model, version)
        served = await self._pool.load(servable(manifest, head), only_if_room=True)
        await self._pool.swap(served, previous=self._states[model].previous)
        self._manifests[model] = manifest
        self._metrics.live_version.labels(model).set(version)

    async def _commit(self, new: LiveState, loaded: Stored, reason: str, seconds: float | None) -> LiveState:
        served = await self._pool.load(servable(*loaded))
        # Whoever asked may give up; what LIVE says and what answers must not part.
        return await to_its_end(self._flip(new, served, loaded[0], reason, seconds))

    async def _flip(
        self, new: LiveState, served: ServedVersion, manifest: Manifest, reason: str, seconds: float | None
    ) -> LiveState:
        assert new.live is not None
        model = manifest.model
        try:
            n_versions = await self._write(model, new)
        except BaseException:
            self._pool.discard(served)
            raise
        await self._pool.swap(served, previous=new.previous)
        self._manifests[model] = manifest
        self.failures.pop(model, None)
        self._metrics.live_version.labels(model).set(new.live)
        self._metrics.swaps.labels(model).inc()
        took = ""
        if seconds is not None:
            self._metrics.drop_to_live.labels(model).observe(seconds)
            way = timeline_of(manifest, new.history[-1])
            for step, spent in way.items():
                self._metrics.drop_to_live_steps.labels(model, step).observe(spent)
            told = ", ".join(f"{step} {spent:.2f}" for step, spent in way.items())
            took = f", {seconds:.2f} s after the change ({told})"
        self._board.said(model, "swap", f"version {new.live} is live{took}: {reason}", new.live)
        self._export(model)
        if n_versions > self._keep_versions(model):
            await self._retire(model)
        return self._states[model]

    async def _write(self, model: str, state: LiveState) -> int:
        """Returns how many versions there are."""

        async def written() -> int:
            n_versions = await asyncio.to_thread(self._store.write_live, model, state)
            self._states[model] = state
            return n_versions

        return await to_its_end(written())

    async def retire(self, model: str) -> None:
        """Delete versions beyond what is kept, after one was published that does not go live."""
        async with self._changing[model]:
            await self._read(model)
            await self._retire(model)

    async def _retire(self, model: str) -> None:
        """A failure here costs disk, never an answer."""
        try:
            leased = self._pool.versions(model)
            gone = await asyncio.to_thread(self._store.retire, model, self._keep_versions(model), leased)
            if gone:
                existing = await self.numbers(model)
                await self._write(model, without_retired(self._states[model], existing))
        except TlserveError as exc:
            log.warning("model %r: old versions were not removed: %s", model, exc)


Stored = tuple[Manifest, Head]
"""What answering needs of a published version."""


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns; when the caller is cancelled meanwhile, that comes into effect after it."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled() and (failure := task.exception()) is not None:
            log.warning("a change that nobody waited for any more failed: %s", failure)
        raise


def stored(store: VersionStore, model: str, version: int) -> Stored:
    """Read it. Raises UnknownVersion or CorruptState."""
    manifest = store.manifest(model, version)
    return manifest, store.head(manifest)


def servable(manifest: Manifest, head: Head) -> ServableVersion:
    """A stored version in the form that the pool takes."""
    return ServableVersion(manifest.model, manifest.version, manifest.build, head, manifest.created)
