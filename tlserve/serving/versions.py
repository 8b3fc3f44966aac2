"""Which versions are loaded and which one is live: swap by reference, the last lease retires."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass, field

from tlserve.core.errors import (
    BackboneCold,
    Draining,
    NotLoaded,
    NotTrained,
    TlserveError,
    UnknownModel,
    UnknownVersion,
)
from tlserve.serving.residency import BuildShelf
from tlserve.serving.servable import ServableVersion, VersionSource
from tlserve.serving.served import Key, ServedVersion


@dataclass(slots=True)
class _Model:
    live: ServedVersion | None = None
    previous: int | None = None
    loaded: dict[int, ServedVersion] = field(default_factory=dict)
    """By number, those that a lease finds without reading anything."""


class VersionRegistry:
    """Loaded versions by model and number; on the event loop only.

    Held loaded (facts and head; the shelf decides about sessions): live and previous of every model, what
    somebody is about to use, and the last few that were asked for by number. The rest retires at once, or
    when its last lease ends. What a change costs does not grow with the number of models.
    """

    def __init__(
        self,
        shelf: BuildShelf,
        source: VersionSource | None,
        *,
        extra_versions: int,
        patience_seconds: float,
    ) -> None:
        """patience_seconds: how long a lease waits for a build that is not in memory."""
        self._shelf, self._source = shelf, source
        self._extra_versions, self._patience_seconds = extra_versions, patience_seconds
        self._models: defaultdict[str, _Model] = defaultdict(_Model)
        self._loading: dict[Key, asyncio.Task[ServedVersion]] = {}
        self._wanted: Counter[Key] = Counter()
        self._holding: Counter[ServedVersion] = Counter()
        """Versions that `load` gave, by the builds it keeps in memory for them until `swap` or `discard`."""
        self._asked: OrderedDict[Key, None] = OrderedDict()
        self._in_use: defaultdict[str, set[ServedVersion]] = defaultdict(set)

    # -- what is here

    def models(self) -> tuple[str, ...]:
        """Models with a live version, sorted."""
        return tuple(sorted(name for name, model in self._models.items() if model.live is not None))

    def serves(self, model: str) -> bool:
        entry = self._models.get(model)
        return entry is not None and entry.live is not None

    def loaded(self, model: str = "") -> tuple[ServedVersion, ...]:
        """Loaded versions (retiring ones that are still leased included), by model and number."""
        names = [model] if model else sorted(self._in_use)
        return tuple(
            served
            for name in names
            for served in sorted(self._in_use.get(name, ()), key=lambda served: served.number)
        )

    def find(self, model: str, version: str = "") -> ServedVersion:
        """A version that is loaded. Raises UnknownModel, NotTrained or UnknownVersion."""
        served = self._get(self.resolve(model, version))
        if served is None:
            raise self._unknown(model, version)
        return served

    def resolve(self, model: str, version: str) -> Key:
        """What a version string means now: decimal, `previous`, `live` or empty (live)."""
        entry = self._models.get(model)
        if entry is None or (entry.live is None and entry.previous is None):
            raise UnknownModel(model, self.models())
        if version in ("", "live"):
            if entry.live is None:
                raise NotTrained(model, "no version is live")
            return entry.live.key
        if version == "previous" and entry.previous is not None:
            return model, entry.previous
        if not (version.isascii() and version.isdigit() and len(version) < 10):
            raise self._unknown(model, version)
        return model, int(version)

    # -- what changes it

    async def load(self, version: ServableVersion, *, only_if_room: bool) -> ServedVersion:
        """Loaded for the caller, who gives it to `swap` or `discard`. Raises NotLoaded or Draining.

        Its build is in memory and held until then, beside the limits if need be; with `only_if_room` it
        stays cold where the limits leave no room.
        """
        key = version.model, version.number
        here = self._get(key)
        if here is not None and here.version.created != version.created:
            # The number was given anew, after its files were deleted: leases on the old one finish.
            self._let_go(here)
        self._wanted[key] += 1
        try:
            served = await self._loaded(key, version)
            if not only_if_room or self._shelf.has_room(served.build):
                await self._held(served)
        except BaseException:
            self._unwant(key)
            raise
        return served

    def swap(self, served: ServedVersion, *, previous: int | None = None) -> None:
        """Make it live. The formerly live one is `previous` now, unless the caller says which is."""
        model = self._models[served.model]
        old, before = model.live, model.previous
        if old is not None and old is not served:
            model.previous = old.number
        if previous is not None:
            model.previous = previous
        model.live = served
        if old is not served:
            self._shelf.lives(served.build, 1)
            if old is not None:
                self._shelf.lives(old.build, -1)
        self._unhold(served)
        self._unwant(served.key)
        if old is not None:
            self._reconsider(old.key)
        if before is not None:
            self._reconsider((served.model, before))

    def discard(self, served: ServedVersion) -> None:
        """Not to be swapped in after all."""
        self._unwant(served.key)
        self._unhold(served)  # by now nothing else may need it, and it makes no other build leave

    def forget(self, model: str) -> None:
        """The model is gone: asking for it raises UnknownModel; leases under way finish."""
        entry = self._models.get(model)
        if entry is None:
            return
        for key in [key for key in self._asked if key[0] == model]:
            del self._asked[key]
        if entry.live is not None:
            self._shelf.lives(entry.live.build, -1)
        entry.live = entry.previous = None
        for number in list(entry.loaded):
            self._reconsider((model, number))

    async def acquire(self, model: str, version: str) -> ServedVersion:
        """One lease, its build in memory; both are loaded first where they have to be. `release` ends it.

        Raises UnknownModel, UnknownVersion, NotTrained, NotLoaded, BackboneCold or Draining.
        """
        key = self.resolve(model, version)
        self._wanted[key] += 1
        try:
            served = await self.facts(model, version)
            try:
                await self._patiently_held(served)
            except BaseException:
                served.release()
                raise
            if version.isdigit():
                self._note_asked(key)
        finally:
            self._unwant(key)
        return served

    def release(self, served: ServedVersion) -> None:
        """End a lease of `acquire`."""
        served.build.release()
        served.release()

    async def facts(self, model: str, version: str) -> ServedVersion:
        """As `acquire`, but its build may be cold; ends with `ServedVersion.release`."""
        key = self.resolve(model, version)
        served = self._get(key)
        if served is None:
            if self._source is None:
                raise self._unknown(model, version)
            self._wanted[key] += 1
            try:
                served = await self._loaded(key, None)
                served.retain()
            finally:
                self._unwant(key)
        else:
            served.retain()
        return served

    async def close(self) -> None:
        """Let go of everything; versions still leased retire with their last lease."""
        for task in self._loading.values():
            task.cancel()
        if self._loading:
            await asyncio.wait(self._loading.values())
        self._wanted.clear()
        for model in list(self._models):
            self.forget(model)

    # -- how

    async def _held(self, served: ServedVersion) -> None:
        try:
            await self._shelf.hold_beside(served.build)
        except Draining:
            raise
        except TlserveError as exc:
            raise NotLoaded(*served.key, str(exc)) from exc
        self._holding[served] += 1

    async def _patiently_held(self, served: ServedVersion) -> None:
        try:
            await self._shelf.hold(served.build, self._patience_seconds)
        except (BackboneCold, Draining):
            raise
        except TlserveError as exc:
            raise NotLoaded(*served.key, str(exc)) from exc

    def _unhold(self, served: ServedVersion) -> None:
        if self._holding[served] > 0:
            self._holding[served] -= 1
            self._shelf.settle(served.build)
        if self._holding[served] <= 0:
            del self._holding[served]

    def _note_asked(self, key: Key) -> None:
        self._asked[key] = None
        self._asked.move_to_end(key)
        while len(self._asked) > self._extra_versions:
            oldest, _ = self._asked.popitem(last=False)
            self._reconsider(oldest)

    async def _loaded(self, key: Key, version: ServableVersion | None) -> ServedVersion:
        served = self._get(key)
        if served is not None:
            return served
        task = self._loading.get(key)
        if task is None:
            task = self._loading[key] = asyncio.create_task(self._load(key, version))
            task.add_done_callback(_noticed)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise Draining from None  # by `close`, not by the caller
            raise

    async def _load(self, key: Key, version: ServableVersion | None) -> ServedVersion:
        try:
            if version is None:
                version = await asyncio.to_thread(self._read, key)
            build = await self._shelf.join(version.build)
            try:
                served = ServedVersion(version, build, self._retired)
            except BaseException:
                self._shelf.leave(build)
                raise
        except UnknownVersion:
            raise
        except TlserveError as exc:
            raise NotLoaded(*key, str(exc)) from exc
        finally:
            del self._loading[key]
        self._models[key[0]].loaded[key[1]] = served
        self._in_use[key[0]].add(served)
        self._reconsider(key)
        return served

    def _read(self, key: Key) -> ServableVersion:
        if self._source is None:
            raise UnknownVersion(key[0], str(key[1]))
        return self._source(*key)

    def _get(self, key: Key) -> ServedVersion | None:
        entry = self._models.get(key[0])
        return None if entry is None else entry.loaded.get(key[1])

    def _unwant(self, key: Key) -> None:
        self._wanted[key] -= 1
        if self._wanted[key] <= 0:
            del self._wanted[key]
        self._reconsider(key)

    def _reconsider(self, key: Key) -> None:
        """Let go of a loaded version that has no reason to stay."""
        served = self._get(key)
        if served is None or key in self._wanted or key in self._asked:
            return
        model = self._models[key[0]]
        if model.live is not served and model.previous != key[1]:
            self._let_go(served)

    def _let_go(self, served: ServedVersion) -> None:
        entry = self._models[served.model]
        del entry.loaded[served.number]
        if not entry.loaded and entry.live is None and entry.previous is None:
            del self._models[served.model]
        served.release()

    def _retired(self, served: ServedVersion) -> None:
        users = self._in_use[served.model]
        users.discard(served)
        if not users:
            del self._in_use[served.model]
        self._shelf.leave(served.build)

    def _unknown(self, model: str, version: str) -> UnknownVersion:
        entry = self._models.get(model)
        return UnknownVersion(model, version, tuple(sorted(entry.loaded)) if entry is not None else ())


def _noticed(done: asyncio.Task[ServedVersion]) -> None:
    """Whoever waited has the error; where nobody did any more, it is not worth a warning."""
    if not done.cancelled():
        done.exception()
