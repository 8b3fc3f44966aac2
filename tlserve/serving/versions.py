"""Which versions are loaded and which one is live: swap by reference, the last lease closes."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from dataclasses import dataclass

from tlserve.core.errors import Draining, NotLoaded, NotTrained, TlserveError, UnknownModel, UnknownVersion
from tlserve.serving.builds import BuildShelf
from tlserve.serving.servable import ServableVersion, VersionSource
from tlserve.serving.served import Key, ServedVersion


@dataclass(slots=True)
class _Model:
    live: ServedVersion | None = None
    previous: int | None = None


class VersionRegistry:
    """Loaded versions by model and number; on the event loop only.

    Held loaded: live and previous of every model, what somebody is about to use, and the last few that
    were asked for by number. The rest retires at once, or when its last lease ends.
    """

    def __init__(self, shelf: BuildShelf, source: VersionSource | None, *, extra_versions: int) -> None:
        self._shelf, self._source, self._extra_versions = shelf, source, extra_versions
        self._models: dict[str, _Model] = {}
        self._loaded: dict[Key, ServedVersion] = {}
        self._loading: dict[Key, asyncio.Task[ServedVersion]] = {}
        self._wanted: Counter[Key] = Counter()
        self._asked: OrderedDict[Key, None] = OrderedDict()
        self._in_use: set[ServedVersion] = set()

    # -- what is here

    def models(self) -> tuple[str, ...]:
        """Models with a live version, sorted."""
        return tuple(sorted(name for name, model in self._models.items() if model.live is not None))

    def serves(self, model: str) -> bool:
        entry = self._models.get(model)
        return entry is not None and entry.live is not None

    def loaded(self, model: str = "") -> tuple[ServedVersion, ...]:
        """Loaded versions (retiring ones that are still leased included), by model and number."""
        here = (served for served in self._in_use if not model or served.model == model)
        return tuple(sorted(here, key=lambda served: served.key))

    def find(self, model: str, version: str = "") -> ServedVersion:
        """A version that is loaded. Raises UnknownModel, NotTrained or UnknownVersion."""
        key = self.resolve(model, version)
        if key not in self._loaded:
            raise self._unknown(model, version)
        return self._loaded[key]

    def resolve(self, model: str, version: str) -> Key:
        """What a version string means now: decimal, `previous`, `live` or empty (live)."""
        entry = self._models.get(model)
        if entry is None:
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

    async def load(self, version: ServableVersion) -> ServedVersion:
        """Loaded and held for the caller, who gives it to `swap` or `discard`. Raises NotLoaded."""
        key = version.model, version.number
        here = self._loaded.get(key)
        if here is not None and here.version.created != version.created:
            # The number was given anew, after its files were deleted: leases on the old one finish.
            self._loaded.pop(key).release()
        self._wanted[key] += 1
        try:
            return await self._get(key, version)
        except BaseException:
            self._unwant(key)
            raise

    def swap(self, served: ServedVersion, *, previous: int | None = None) -> None:
        """Make it live. The formerly live one is `previous` now, unless the caller says which is."""
        model = self._models.setdefault(served.model, _Model())
        if model.live is not None and model.live is not served:
            model.previous = model.live.number
        if previous is not None:
            model.previous = previous
        model.live = served
        self._unwant(served.key)

    def discard(self, served: ServedVersion) -> None:
        """Not to be swapped in after all."""
        self._unwant(served.key)

    def forget(self, model: str) -> None:
        """The model is gone: asking for it raises UnknownModel; leases under way finish."""
        if self._models.pop(model, None) is not None:
            for key in [key for key in self._asked if key[0] == model]:
                del self._asked[key]
            self._trim()

    async def acquire(self, model: str, version: str) -> ServedVersion:
        """One lease on a version, loaded first where it has to be; `release` ends it."""
        key = self.resolve(model, version)
        served = self._loaded.get(key)
        if served is None:
            served = await self._on_demand(key, version)
        served.retain()
        if version.isdigit():
            self._note_asked(key)
        return served

    async def close(self) -> None:
        """Let go of everything; versions still leased retire with their last lease."""
        for task in self._loading.values():
            task.cancel()
        if self._loading:
            await asyncio.wait(self._loading.values())
        self._models.clear()
        self._wanted.clear()
        self._asked.clear()
        self._trim()

    # -- how

    async def _on_demand(self, key: Key, version: str) -> ServedVersion:
        if self._source is None:
            raise self._unknown(key[0], version)
        self._wanted[key] += 1
        try:
            return await self._get(key, None)
        finally:
            # The caller retains it before the loop runs anything else; trimming waits until then.
            asyncio.get_running_loop().call_soon(self._unwant, key)

    def _note_asked(self, key: Key) -> None:
        is_new = key not in self._asked
        self._asked[key] = None
        self._asked.move_to_end(key)
        if is_new:
            self._trim()

    async def _get(self, key: Key, version: ServableVersion | None) -> ServedVersion:
        if key in self._loaded:
            return self._loaded[key]
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
            build = await self._shelf.acquire(version.build)
            try:
                served = ServedVersion(version, build, self._in_use.discard)
            except BaseException:
                build.release()
                raise
        except UnknownVersion:
            raise
        except TlserveError as exc:
            raise NotLoaded(*key, str(exc)) from exc
        finally:
            del self._loading[key]
        self._loaded[key] = served
        self._in_use.add(served)
        self._trim()
        return served

    def _read(self, key: Key) -> ServableVersion:
        if self._source is None:
            raise UnknownVersion(key[0], str(key[1]))
        return self._source(*key)

    def _unwant(self, key: Key) -> None:
        self._wanted[key] -= 1
        if self._wanted[key] <= 0:
            del self._wanted[key]
        self._trim()

    def _trim(self) -> None:
        """Let go of every loaded version that has no reason to stay."""
        while len(self._asked) > self._extra_versions:
            self._asked.popitem(last=False)
        stay = set(self._wanted) | set(self._asked)
        for name, model in self._models.items():
            live = model.live.number if model.live is not None else None
            stay |= {(name, number) for number in (live, model.previous) if number is not None}
        for key in [key for key in self._loaded if key not in stay]:
            self._loaded.pop(key).release()

    def _unknown(self, model: str, version: str) -> UnknownVersion:
        numbers = tuple(number for name, number in sorted(self._loaded) if name == model)
        return UnknownVersion(model, version, numbers)


def _noticed(done: asyncio.Task[ServedVersion]) -> None:
    """Whoever waited has the error; where nobody did any more, it is not worth a warning."""
    if not done.cancelled():
        done.exception()
