"""Fast heads: what the trainer keeps of each model, so that learning from a drop costs what it changed.

The states are a cache with a byte limit: whatever is not there is summed again from cached rows.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tlserve.core.types import LabelledImage, Snapshot, Split
from tlserve.features import FeatureStore
from tlserve.pipeline.bench import Bench
from tlserve.training import InstantState, measured_speed

log = logging.getLogger("tlserve.pipeline")

Key = tuple[str, str, tuple[str, ...]]
"""(model, digest of the build, taps)"""


@dataclass(frozen=True, eq=False)
class StoredRows:
    """Rows of the bottleneck cache as training reads them: the n-th place is that of the n-th digest."""

    store: FeatureStore
    digests: Sequence[str]
    columns: slice | npt.NDArray[np.intp]
    n_features: int

    @classmethod
    def of(cls, bench: Bench, taps: tuple[str, ...], digests: Sequence[str]) -> StoredRows:
        return cls(bench.store, digests, bench.spec.columns(taps), bench.width(taps))

    def __len__(self) -> int:
        return len(self.digests)

    def read(self, places: npt.NDArray[np.intp] | slice) -> npt.NDArray[np.float32]:
        """(n, n_features) float32. Raises CorruptState."""
        chosen = self.digests[places] if isinstance(places, slice) else [self.digests[at] for at in places]
        return self.store.read(chosen, self.columns)


@dataclass(frozen=True, eq=False)
class Footing:
    """What a fast head is learnt from."""

    bench: Bench
    taps: tuple[str, ...]
    snapshot: Snapshot
    group_of: Callable[[], Mapping[str, str]]
    """The name of each image's group of near duplicates, by digest; asked for only when needed."""

    @property
    def key(self) -> Key:
        return self.snapshot.model, self.bench.spec.digest, self.taps

    def rows_of(self, images: Sequence[LabelledImage]) -> StoredRows:
        return StoredRows.of(self.bench, self.taps, [image.digest for image in images])


class FastHeads:
    """The states of the models that changed lately, least recently used first to leave."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._states: OrderedDict[Key, InstantState] = OrderedDict()
        self._expected: dict[str, str] = {}
        """By model: the newest snapshot that was learnt from."""
        self._speed = 0.0

    @property
    def flops_per_second(self) -> float:
        """Of this machine, measured on first need."""
        if not self._speed:
            self._speed = measured_speed()
        return self._speed

    def expect(self, on: Footing) -> bool:
        """Note what the model's next drop will go on from; whether `get_ready` has work to do for it."""
        self._expected[on.snapshot.model] = on.snapshot.snapshot_id
        state = self._states.get(on.key)
        return state is None or state.snapshot_id != on.snapshot.snapshot_id or state.is_stale

    def get_ready(self, on: Footing, stop: Callable[[], bool]) -> None:
        """Make the state that is expected, and open the session that the next images pass.

        Nothing is done for a snapshot that is not the newest any more. Raises as `state`, and what opening a
        session does.
        """
        if self._expected.get(on.snapshot.model) == on.snapshot.snapshot_id:
            self.state(on, cancelled=stop)
            _ = on.bench.session

    def state(self, on: Footing, *, cancelled: Callable[[], bool]) -> InstantState:
        """At this snapshot: gone on from where it was if that is known, else built from rows.

        Raises CorruptState for rows that are not there, TrainingCancelled.
        """
        self._expected[on.snapshot.model] = on.snapshot.snapshot_id
        # What fails on the way leaves a state of no use.
        state = self._states.pop(on.key, None)
        if state is not None and state.snapshot_id != on.snapshot.snapshot_id:
            follows = on.snapshot.based_on == state.snapshot_id and not state.is_stale
            state = self._gone_on(state, on) if follows else None
        if state is None:
            state = _built(on, cancelled)
        self._keep(on.key, state)
        return state

    def forget(self, *, model: str = "", build: str = "") -> None:
        """Let go of what stands on a model or a build that is gone."""
        self._expected.pop(model, None)
        for key in [key for key in self._states if model == key[0] or build == key[1]]:
            del self._states[key]

    def _gone_on(self, state: InstantState, on: Footing) -> InstantState | None:
        """None where what changed does not go with what is in it: it is then built anew."""
        added = [image for image in on.snapshot.added if image.split is Split.TRAIN]
        removed = [image for image in on.snapshot.removed if image.split is Split.TRAIN]
        try:
            state.update(
                _labelled(added),
                _labelled(removed),
                on.rows_of([*added, *removed]),
                snapshot_id=on.snapshot.snapshot_id,
                groups=_groups(added, on.group_of()) if added else [],
            )
        except ValueError as exc:
            log.info("model %r: what fast heads are made of is summed anew: %s", on.snapshot.model, exc)
            return None
        return state

    def _keep(self, key: Key, state: InstantState) -> None:
        self._states[key] = state
        while self._states and sum(one.nbytes for one in self._states.values()) > self._most_bytes:
            self._states.popitem(last=False)


def _built(on: Footing, cancelled: Callable[[], bool]) -> InstantState:
    images = on.snapshot.on(Split.TRAIN)
    return InstantState.build(
        on.rows_of(images),
        _labelled(images),
        on.taps,
        snapshot_id=on.snapshot.snapshot_id,
        groups=_groups(images, on.group_of()),
        cancelled=cancelled,
    )


def _labelled(images: Sequence[LabelledImage]) -> list[tuple[str, str]]:
    return [(image.digest, image.label) for image in images]


def _groups(images: Sequence[LabelledImage], group_of: Mapping[str, str]) -> list[str]:
    return [group_of.get(image.digest, image.digest) for image in images]
