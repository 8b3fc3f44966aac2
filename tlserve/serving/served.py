"""One version standing on its build: what a lease holds, and what retires with the last of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tlserve.core.errors import CorruptState
from tlserve.core.head import Head, answers
from tlserve.plugin_api import ImageSpec
from tlserve.runtime import BuildSpec
from tlserve.serving.builds import Build
from tlserve.serving.servable import ServableVersion
from tlserve.serving.statistics import VersionCounter

Key = tuple[str, int]
"""(model, version number)"""


class ServedVersion:
    """A version and the build it stands on, in memory or not. Counted on the event loop only."""

    def __init__(
        self, version: ServableVersion, build: Build, on_retired: Callable[[ServedVersion], None]
    ) -> None:
        """on_retired: called when the last user is gone. Raises CorruptState when the head does not fit."""
        self.version, self.build = version, build
        self.columns = fitting_columns(version.head, build.spec)
        self.counter = VersionCounter(version.model, version.number)
        self._on_retired = on_retired
        self._users = 1

    @property
    def key(self) -> Key:
        return self.version.model, self.version.number

    @property
    def model(self) -> str:
        return self.version.model

    @property
    def number(self) -> int:
        return self.version.number

    @property
    def labels(self) -> tuple[str, ...]:
        return self.version.head.labels

    @property
    def n_features(self) -> int:
        return self.version.head.n_features

    @property
    def image(self) -> ImageSpec:
        """The size that its backbone wants, and how pictures get there."""
        return self.build.spec.image

    @property
    def backbone(self) -> str:
        return self.build.spec.name

    @property
    def retired(self) -> bool:
        return self._users == 0

    def retain(self) -> None:
        self._users += 1

    def release(self) -> None:
        """The last release retires the version."""
        self._users -= 1
        if self._users == 0:
            self._on_retired(self)


@dataclass(frozen=True, eq=False, slots=True)
class Lease:
    """A version that stays as it is, its build in memory, until the lease ends, whatever is swapped."""

    served: ServedVersion

    @property
    def model(self) -> str:
        return self.served.model

    @property
    def version(self) -> int:
        return self.served.number

    @property
    def labels(self) -> tuple[str, ...]:
        return self.served.labels

    @property
    def image(self) -> ImageSpec:
        return self.served.image


def fitting_columns(head: Head, spec: BuildSpec) -> slice | npt.NDArray[np.intp]:
    """The columns of the build's rows that the head reads; raises CorruptState when they do not match."""
    columns = spec.columns(head.taps)
    features = np.zeros((1, spec.row_width), np.float32)[:, columns]
    if features.shape[1] != head.n_features:
        raise CorruptState(
            f"its head reads {head.n_features} features, but the taps {', '.join(head.taps)} "
            f"of backbone {spec.name!r} have {features.shape[1]}"
        )
    try:
        answer, novelty = answers(head, features)
    except ValueError as exc:
        raise CorruptState(f"its head does not fit together: {exc}") from exc
    if not (np.isfinite(answer).all() and np.isfinite(novelty).all()):
        raise CorruptState("its head answers with numbers that are not finite")
    return columns
