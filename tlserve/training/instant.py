"""The head for now: what is kept between two drops so that the next head costs by what changed.

A ridge head follows exactly from sums of products of rows (`Gram`), and these are updated by the images that
were added and removed. Some training images validate instead of teaching until the very last solve, so that
penalty, temperature and the choice between kinds rest on images that no fit had seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tlserve.core.head import Head
from tlserve.core.plan import HeadKind
from tlserve.core.types import Features
from tlserve.training.instant_build import Labelled, add, built, remove
from tlserve.training.instant_fit import InstantFit
from tlserve.training.instant_kept import Kept
from tlserve.training.instant_warm import LiveHead
from tlserve.training.rows import RowSource
from tlserve.training.trained import TrainedHead

KEPT_BYTES = 64 * 2**20
"""All rows stay in memory up to this size; a refit from a warm start needs them."""


class InstantState:
    """What is kept of one model on one build and one choice of taps. Not for two threads at once.

    Training images only: held-out images never enter it.
    """

    def __init__(self, kept: Kept, snapshot_id: str) -> None:
        """See `build`."""
        self._kept = kept
        self.snapshot_id = snapshot_id
        """The snapshot whose training images are in it."""

    @classmethod
    def build(
        cls,
        source: RowSource,
        images: Sequence[Labelled],
        taps: tuple[str, ...],
        *,
        snapshot_id: str,
        groups: Sequence[str] | None = None,
        kept_bytes: int = KEPT_BYTES,
        seed: int = 0,
        cancelled: Callable[[], bool] | None = None,
    ) -> InstantState:
        """From all training images: `source` holds the row of each, in the order of `images`.

        taps: what the columns of the rows are. groups: a stable name for each image that near duplicates
        share; they are then on one side of the validation. kept_bytes: rows stay in memory if they take no
        more; else those of the validating images only. Reads each row once, and some of them twice.
        Raises ValueError for fewer than two labels or a row too many, TrainingCancelled.
        """
        digests, labels = [one[0] for one in images], [one[1] for one in images]
        kept = built(
            source,
            digests,
            labels,
            digests if groups is None else groups,
            taps=taps,
            kept_bytes=kept_bytes,
            seed=seed,
            cancelled=cancelled,
        )
        return cls(kept, snapshot_id)

    def update(
        self,
        added: Sequence[Labelled],
        removed: Sequence[Labelled],
        source: RowSource,
        *,
        snapshot_id: str,
        groups: Sequence[str] | None = None,
    ) -> None:
        """Go on to another snapshot.

        removed: those that are in it and not in the new one; added: the reverse; an image that was
        relabelled is in both. source: the rows of the added images, then those of the removed ones.
        groups: as in `build`, of the added images.
        Raises ValueError where that does not go with what is in it: the state is then of no use any more.
        """
        if len(source) != len(added) + len(removed):
            raise ValueError(f"{len(source)} rows of {len(added)} images added and {len(removed)} removed")
        rows = source.read(slice(0, len(source)))
        remove(self._kept, removed, rows[len(added) :])
        digests, labels = [one[0] for one in added], [one[1] for one in added]
        keys = digests if groups is None else groups
        self._kept.validators.meet(labels, keys)
        add(self._kept, digests, labels, keys, rows[: len(added)])
        if not len(self._kept.validating) or len(self.names) < 2:
            raise ValueError("no image is left that validates, or no second class: build it anew")
        self._kept.n_changed += len(source)
        self.snapshot_id = snapshot_id

    def fit(
        self,
        names: Sequence[str],
        budget_seconds: float,
        warm: Head | None = None,
        *,
        warm_kind: HeadKind = HeadKind.SOFTMAX,
        warm_setting: float | None = None,
        held_out_rows: Features | None = None,
        novelty_budget_kb: int = 256,
        places: Mapping[str, int] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> TrainedHead:
        """The best head that can be had within the budget: ridge, or the live head's kind fitted anew.

        names: the classes of the head: just those that have images here. warm: the live head; warm_kind and
        warm_setting: its kind, and the C that its report names. It is fitted anew from where it stands if
        the rows are in memory and the budget allows. held_out_rows: (any, n_features) raw, for the scale of
        novelty and nothing else. places: the position among the training images of each of
        `validating_digests`, for `out_of_fold.images`; without it they are numbered as they come.
        The report says which one was taken and why, what each reached and took.
        Raises ValueError for other names, TrainingCancelled.
        """
        if tuple(sorted(names)) != self.names:
            raise ValueError(f"a head for {len(names)} classes, but there are images of {len(self.names)}")
        live = None if warm is None else LiveHead(warm, warm_kind, warm_setting)
        job = InstantFit(self._kept, budget_seconds, live, cancelled)
        return job.run(held_out_rows, novelty_budget_kb, places)

    @property
    def names(self) -> tuple[str, ...]:
        """The classes that have images, sorted."""
        return self._kept.names

    @property
    def n_images(self) -> int:
        return self._kept.taught.n_rows + self._kept.judging.n_rows

    @property
    def taps(self) -> tuple[str, ...]:
        return self._kept.taps

    @property
    def validating_digests(self) -> tuple[str, ...]:
        """The images that validate: at most some 2,000 of them."""
        return tuple(self._kept.validating.digests)

    @property
    def nbytes(self) -> int:
        """About what it takes in memory."""
        return self._kept.nbytes

    @property
    def is_stale(self) -> bool:
        """Whether it should be built anew at the next opportunity; what it gives is good all the same."""
        return self._kept.is_stale
